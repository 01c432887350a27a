"""Held-out evaluation: which images are drawn at which policy version, and what their scores add up to.

The checker's figures end here and in the run folder; nothing that trains reads them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from actors.messages import Prompt
from pipelines.evaluation.comparison import ACCURACY
from pipelines.evaluation.draws import Draws, HeldoutGroup, tasks_of
from pipelines.evaluation.statistics import category_means, mean
from pipelines.recipe.tables import Heldout
from pipelines.run_folder.records import HeldoutRecord, PromptFigures, Tag


class HeldoutPlan(Draws):
    """The groups of every evaluation: whole before and after the run, a smaller share every `every` steps.

    The small evaluation is a part of the whole one, with the same noise, so that curves compare like with like.
    """

    def __init__(self, prompts: Sequence[Prompt], settings: Heldout, steps: int) -> None:
        """Raises UserError if more prompts are asked for than there are."""
        super().__init__(prompts, settings)
        self.settings, self.steps = settings, steps

    def versions(self) -> list[int]:
        """The policy versions that are evaluated."""
        return sorted({0, *range(0, self.steps, self.settings.every), self.steps}) if self.by_category else []

    def groups(self, version: int) -> list[HeldoutGroup]:
        """The groups of an evaluation, in order: see `Draws.at`."""
        s = self.settings
        if version in (0, self.steps):
            scales = s.guidance_scales if version else s.base_guidance_scales
            return self.at(scales, s.images_per_category, s.prompts)
        images, prompts = min(s.images_per_category_during, s.images_per_category), s.prompts_during or s.prompts
        return self.at(s.guidance_scales[:1], images, prompts)

    def tasks(self, version: int) -> tuple[int, ...]:
        """How many groups each draw task of an evaluation has."""
        return tasks_of(self.groups(version), self.settings.groups_per_task)

    def tag(self, version: int) -> Tag:
        """Which kind of evaluation a version has."""
        return "before" if version == 0 else "after" if version == self.steps else "during"

    def shown(self, version: int) -> list[int]:
        """The groups whose images go into the sample grid."""
        return self.shown_of(self.groups(version))


@dataclass(frozen=True)
class Judged:
    """A scored held-out group."""

    prompt: Prompt
    rewards_K: Sequence[float]
    checks: Mapping[str, Sequence[float]]
    by_name: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Each of several rewards."""


@dataclass
class Tally:
    """What the scored groups of one evaluation at one guidance scale add up to, whatever the order in which they came."""

    groups: dict[int, Judged] = field(default_factory=dict)

    def record(self, tag: Tag, step: int, guidance: float, with_prompts: bool = False) -> HeldoutRecord:
        """Means over categories of the means within: the reward, the checker's figures by their names; and both by category.

        "accuracy" and "by_category" repeat the figure of that name. `with_prompts`: also the means of each prompt.
        """
        groups = [self.groups[number] for number in sorted(self.groups)]
        rewards = _by_category(groups, lambda group: group.rewards_K)
        names = {name: None for group in groups for name in group.checks}
        checks = {name: _by_category(groups, partial(_checked, name)) for name in names}
        macro = {name: mean(means.values()) for name, means in checks.items()}
        named = {name: mean(_by_category(groups, partial(_named, name)).values()) for name in groups[0].by_name}
        record = HeldoutRecord(
            tag=tag,
            step=step,
            guidance=guidance,
            images=sum(len(group.rewards_K) for group in groups),
            reward=mean(rewards.values()),
            reward_by_category=rewards,
            accuracy=macro.get(ACCURACY),
            by_category=checks.get(ACCURACY, {}),
            checks=macro,
            checks_by_category=checks,
        )
        more = {"rewards": named} if named else {}
        return record.model_copy(update={**more, **({"by_prompt": _by_prompt(groups)} if with_prompts else {})})


def _checked(name: str, group: Judged) -> Sequence[float]:
    return group.checks.get(name, ())


def _named(name: str, group: Judged) -> Sequence[float]:
    return group.by_name[name]


def _by_category(groups: Sequence[Judged], of: Callable[[Judged], Sequence[float]]) -> dict[str, float]:
    return category_means((group.prompt.category, of(group)) for group in groups)


def _by_prompt(groups: Sequence[Judged]) -> dict[str, PromptFigures]:
    """By prompt id: its category, how many images, and their means."""
    of_prompt: dict[str, list[Judged]] = defaultdict(list)
    for group in groups:
        of_prompt[group.prompt.id].append(group)
    return {
        prompt_id: PromptFigures(
            category=same[0].prompt.category,
            images=sum(len(group.rewards_K) for group in same),
            reward=mean([reward for group in same for reward in group.rewards_K]),
            checks={name: mean([value for group in same for value in group.checks[name]]) for name in same[0].checks},
        )
        for prompt_id, same in of_prompt.items()
    }


def extremes(scored: Sequence[tuple[float, int]], count: int) -> tuple[list[int], list[int]]:
    """The groups with the lowest and the highest mean reward: (worst first, best first)."""
    ordered = [group for _, group in sorted(scored)]
    return list(islice(ordered, count)), list(islice(reversed(ordered), count))
