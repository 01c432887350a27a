"""Held-out evaluation: which images are drawn at which policy version, and what their scores add up to.

The checker's figures end here and in the run folder; nothing that trains reads them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice, zip_longest

from actors.messages import Prompt
from actors.seeds import seed_of
from pipelines.evaluation.comparison import ACCURACY
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Heldout
from pipelines.run_folder.records import HeldoutRecord, PromptFigures, Tag

GRID_ROWS = 6  # of the sample grid, at least, where there are so many prompts


@dataclass(frozen=True)
class HeldoutGroup:
    """One task's worth of held-out images: a prompt at a guidance scale, samples `first_sample` and following."""

    prompt: Prompt
    guidance_scale: float
    first_sample: int


class HeldoutPlan:
    """The groups of every evaluation: full before and after the run, a smaller share every `every` steps.

    Categories get the same number of images each, spread over their prompts in a hashed order; or, with `heldout.prompts` or
    `heldout.images_per_prompt`, prompts get the same number of images each. The small evaluation is a part of the full one,
    with the same noise, so that curves compare like with like.
    """

    def __init__(self, prompts: Sequence[Prompt], settings: Heldout, steps: int) -> None:
        """Raises UserError if more prompts are asked for than there are."""
        if prompts and (settings.prompts or 0) > len(prompts):
            raise UserError(
                f"heldout.prompts = {settings.prompts}, but the held-out set has {len(prompts)} prompts: give that many or fewer"
            )
        self.settings = settings
        self.steps = steps
        self.by_category: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            self.by_category[prompt.category].append(prompt)
        for same in self.by_category.values():
            same.sort(key=lambda prompt: seed_of("heldout order", prompt.id))

    def example(self) -> Prompt | None:
        """One of its prompts; None if there are none."""
        return next((same[0] for same in self.by_category.values()), None)

    def versions(self) -> list[int]:
        """The policy versions that are evaluated."""
        return sorted({0, *range(0, self.steps, self.settings.every), self.steps}) if self.by_category else []

    def groups(self, version: int) -> list[HeldoutGroup]:
        """The groups of an evaluation, in order: by guidance scale, then turn by turn over the prompts, or the categories."""
        s = self.settings
        scales = {0: s.base_guidance_scales, self.steps: s.guidance_scales}.get(version, s.guidance_scales[:1])
        full = version in (0, self.steps)
        draws = self._by_prompt(full) if s.by_prompt else self._by_category(full)
        return [HeldoutGroup(prompt, scale, first) for scale in scales for prompt, first in draws]

    def tasks(self, version: int) -> tuple[int, ...]:
        """How many groups each draw task of an evaluation has: as many as may share one, and of one guidance scale."""
        size = self.settings.groups_per_task
        counts = [len(list(same)) for _, same in groupby(self.groups(version), lambda group: group.guidance_scale)]
        return tuple(min(size, count - first) for count in counts for first in range(0, count, size))

    def _by_prompt(self, full: bool) -> list[tuple[Prompt, int]]:
        """(prompt, first sample) of each group: the first prompts in turn over the categories, each with all its images."""
        s = self.settings
        in_turn = [prompt for row in zip_longest(*self.by_category.values()) for prompt in row if prompt]
        most = s.prompts if full else s.prompts_during or s.prompts
        starts = range(0, s.images_per_prompt or s.chunk, s.images_of_group)
        return [(prompt, first) for first in starts for prompt in in_turn[:most]]

    def _by_category(self, full: bool) -> list[tuple[Prompt, int]]:
        """(prompt, first sample) of each group: as many images of each category as are wanted."""
        s = self.settings
        images = s.images_per_category if full else min(s.images_per_category_during, s.images_per_category)
        return [
            (prompts[turn % len(prompts)], turn // len(prompts) * s.chunk)
            for turn in range(-(-images // s.chunk))
            for prompts in self.by_category.values()
        ]

    def tag(self, version: int) -> Tag:
        """Which kind of evaluation a version has."""
        return "before" if version == 0 else "after" if version == self.steps else "during"

    def shown(self, version: int) -> list[int]:
        """The groups whose images go into the sample grid, without extra guidance: one of each category, and of several prompts."""
        groups = self.groups(version)
        rows = max(len(self.by_category), GRID_ROWS)
        first = [
            n
            for n, group in enumerate(groups)
            if (group.guidance_scale, group.first_sample) == (groups[0].guidance_scale, 0)
        ]
        return first[:rows]


@dataclass(frozen=True)
class Judged:
    """A scored held-out group."""

    prompt: Prompt
    rewards_K: Sequence[float]
    checks: Mapping[str, Sequence[float]]


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
        macro = {name: _mean(means.values()) for name, means in checks.items()}
        record = HeldoutRecord(
            tag=tag,
            step=step,
            guidance=guidance,
            images=sum(len(group.rewards_K) for group in groups),
            reward=_mean(rewards.values()),
            reward_by_category=rewards,
            accuracy=macro.get(ACCURACY),
            by_category=checks.get(ACCURACY, {}),
            checks=macro,
            checks_by_category=checks,
        )
        return record.model_copy(update={"by_prompt": _by_prompt(groups)}) if with_prompts else record


def _checked(name: str, group: Judged) -> Sequence[float]:
    return group.checks.get(name, ())


def _by_category(groups: Sequence[Judged], of: Callable[[Judged], Sequence[float]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        values[group.prompt.category] += of(group)
    return {category: _mean(items) for category, items in values.items() if items}


def _by_prompt(groups: Sequence[Judged]) -> dict[str, PromptFigures]:
    """By prompt id: its category, how many images, and their means."""
    of_prompt: dict[str, list[Judged]] = defaultdict(list)
    for group in groups:
        of_prompt[group.prompt.id].append(group)
    return {
        prompt_id: PromptFigures(
            category=same[0].prompt.category,
            images=sum(len(group.rewards_K) for group in same),
            reward=_mean([reward for group in same for reward in group.rewards_K]),
            checks={name: _mean([value for group in same for value in group.checks[name]]) for name in same[0].checks},
        )
        for prompt_id, same in of_prompt.items()
    }


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def extremes(scored: Sequence[tuple[float, int]], count: int) -> tuple[list[int], list[int]]:
    """The groups with the lowest and the highest mean reward: (worst first, best first)."""
    ordered = [group for _, group in sorted(scored)]
    return list(islice(ordered, count)), list(islice(reversed(ordered), count))
