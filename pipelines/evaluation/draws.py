"""Which images are drawn of held-out prompts: the same at every model, so that figures and pictures compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from actors.messages import Prompt
from actors.seeds import seed_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import HeldoutDraws

GRID_ROWS = 6  # of what is shown, at least, where there are so many prompts


@dataclass(frozen=True)
class HeldoutGroup:
    """One task's worth of held-out images: a prompt at a guidance scale, samples `first_sample` and following."""

    prompt: Prompt
    guidance_scale: float
    first_sample: int


class Draws:
    """The groups of an evaluation.

    Categories get the same number of images each, spread over their prompts in a hashed order; or, with `heldout.prompts` or
    `heldout.images_per_prompt`, prompts get the same number of images each.
    """

    def __init__(self, prompts: Sequence[Prompt], settings: HeldoutDraws) -> None:
        """Raises UserError if more prompts are asked for than there are."""
        if prompts and (settings.prompts or 0) > len(prompts):
            raise UserError(
                f"heldout.prompts = {settings.prompts}, but the held-out set has {len(prompts)} prompts: give that many or fewer"
            )
        self.draws = settings
        self.by_category: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            self.by_category[prompt.category].append(prompt)
        for same in self.by_category.values():
            same.sort(key=lambda prompt: seed_of("heldout order", prompt.id))

    def example(self) -> Prompt | None:
        """One of its prompts; None if there are none."""
        return next((same[0] for same in self.by_category.values()), None)

    def whole(self) -> list[HeldoutGroup]:
        """The groups of a whole evaluation at its guidance scales."""
        return self.at(self.draws.guidance_scales, self.draws.images_per_category, self.draws.prompts)

    def at(self, scales: Sequence[float], images: int, prompts: int | None) -> list[HeldoutGroup]:
        """The groups in order: by guidance scale, then turn by turn over the prompts, or the categories.

        images: of each category; prompts: so many instead, where prompts are counted (None: all).
        """
        draws = self._by_prompt(prompts) if self.draws.by_prompt else self._by_category(images)
        return [HeldoutGroup(prompt, scale, first) for scale in scales for prompt, first in draws]

    def _by_prompt(self, most: int | None) -> list[tuple[Prompt, int]]:
        """(prompt, first sample) of each group: the first prompts in turn over the categories, each with all its images."""
        draws = self.draws
        in_turn = [prompt for row in zip_longest(*self.by_category.values()) for prompt in row if prompt]
        starts = range(0, draws.images_per_prompt or draws.chunk, draws.images_of_group)
        return [(prompt, first) for first in starts for prompt in in_turn[:most]]

    def _by_category(self, images: int) -> list[tuple[Prompt, int]]:
        """(prompt, first sample) of each group: as many images of each category as are wanted."""
        chunk = self.draws.chunk
        return [
            (prompts[turn % len(prompts)], turn // len(prompts) * chunk)
            for turn in range(-(-images // chunk))
            for prompts in self.by_category.values()
        ]

    def shown_of(self, groups: Sequence[HeldoutGroup]) -> list[int]:
        """The numbers of those whose images are shown, without extra guidance: one of each category, and of several prompts."""
        rows = max(len(self.by_category), GRID_ROWS)
        first = [
            n
            for n, group in enumerate(groups)
            if (group.guidance_scale, group.first_sample) == (groups[0].guidance_scale, 0)
        ]
        return first[:rows]


def tasks_of(groups: Sequence[HeldoutGroup], size: int) -> tuple[int, ...]:
    """How many groups each draw task has: as many as may share one, and of one guidance scale."""
    counts = [len(list(same)) for _, same in groupby(groups, lambda group: group.guidance_scale)]
    return tuple(min(size, count - first) for count in counts for first in range(0, count, size))


def noise_seed(seed: int, prompt: Prompt, sample: int) -> int:
    """Of a sample's starting noise: the same whatever draws it."""
    return seed_of(seed, "heldout", 0, prompt.id, sample)
