"""Held-out evaluation: which images are drawn at which policy version, and what their scores add up to.

The checker's figures end here and in the run folder; nothing that trains reads them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from actors.messages import Prompt
from actors.seeds import seed_of
from pipelines.tables import Heldout


@dataclass(frozen=True)
class HeldoutGroup:
    """One task's worth of held-out images: a prompt at a guidance scale, samples `first_sample` and following."""

    prompt: Prompt
    guidance_scale: float
    first_sample: int


class HeldoutPlan:
    """The groups of every evaluation: full before and after the run, a smaller share every `every` steps.

    Categories get the same number of images each, spread over their prompts in a hashed order. The small evaluation is a part
    of the full one, with the same noise, so that curves compare like with like.
    """

    def __init__(self, prompts: Sequence[Prompt], settings: Heldout, steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.by_category: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            self.by_category[prompt.category].append(prompt)
        for same in self.by_category.values():
            same.sort(key=lambda prompt: seed_of("heldout order", prompt.id))

    def versions(self) -> list[int]:
        """The policy versions that are evaluated."""
        return sorted({0, *range(0, self.steps, self.settings.every), self.steps}) if self.by_category else []

    def groups(self, version: int) -> list[HeldoutGroup]:
        """The groups of an evaluation, in order: by guidance scale, then turn by turn over the categories."""
        s = self.settings
        scales = {0: s.base_guidance_scales, self.steps: s.guidance_scales}.get(version, s.guidance_scales[:1])
        images = (
            s.images_per_category
            if version in (0, self.steps)
            else min(s.images_per_category_during, s.images_per_category)
        )
        per_category = -(-images // s.chunk)
        return [
            HeldoutGroup(prompts[turn % len(prompts)], scale, turn // len(prompts) * s.chunk)
            for scale in scales
            for turn in range(per_category)
            for prompts in self.by_category.values()
        ]

    def tag(self, version: int) -> str:
        """before, during or after."""
        return {0: "before", self.steps: "after"}.get(version, "during")

    def shown(self, version: int) -> list[int]:
        """The groups whose images go into the sample grid: the first of each category, without extra guidance."""
        return list(range(min(len(self.by_category), len(self.groups(version)))))


@dataclass
class Tally:
    """What the scored images of one evaluation at one guidance scale add up to."""

    rewards: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    checks: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, category: str, rewards: Sequence[float], checks: dict[str, list[float]]) -> None:
        """Adds the images of one group."""
        self.rewards[category] += rewards
        for name, values in checks.items():
            self.checks[name][category] += values

    def record(self) -> dict[str, Any]:
        """Means over categories of the means within: accuracy, by_category, reward, ghost and what else the checker returns."""
        record: dict[str, Any] = {
            "images": sum(map(len, self.rewards.values())),
            "reward": _macro(self.rewards),
            "reward_by_category": _means(self.rewards),
            "accuracy": None,
            "by_category": {},
        }
        for name, values in self.checks.items():
            record[name] = _macro(values)
        if "accuracy" in self.checks:
            record["by_category"] = _means(self.checks["accuracy"])
        return record


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(items) / len(items) for name, items in values.items() if items}


def _macro(values: dict[str, list[float]]) -> float:
    means = list(_means(values).values())
    return sum(means) / len(means) if means else float("nan")


def extremes(scored: Sequence[tuple[float, int]], count: int) -> tuple[list[int], list[int]]:
    """The groups with the lowest and the highest mean reward: (worst first, best first)."""
    ordered = [group for _, group in sorted(scored)]
    return list(islice(ordered, count)), list(islice(reversed(ordered), count))
