"""What is drawn: sheets of images, one after the other, the same of every model. A pure function of recipe, models and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from actors.messages import DrawPart, DrawRequest, Prompt
from pipelines.data.captions import check_captions, check_prompts
from pipelines.data.prompt_fields import Fields, shown
from pipelines.data.prompts import PromptList, load_prompts
from pipelines.evaluating.models import Model
from pipelines.evaluation.draws import Draws, noise_seed, tasks_of
from pipelines.preflight.checker import check_checker
from pipelines.preflight.checks import check_judges
from pipelines.recipe.errors import UserError
from pipelines.recipe.programs.evaluate import EvaluateRecipe
from pipelines.recipe.reward import by_pool


@dataclass(frozen=True)
class Way:
    """How images are drawn: what is compared is drawn in one way."""

    guidance: float
    height: int
    width: int


@dataclass(frozen=True)
class Sheet:
    """Images of a prompt that a model draws together: `samples` of a seed. shown: whether the report has them."""

    model: Model
    way: Way
    seed: int
    prompt: Prompt
    samples: range
    shown: bool


def prompts_of(recipe: EvaluateRecipe) -> PromptList:
    """The held-out prompts. Raises UserError if they, the checker, or a reward's models cannot be used."""
    rewards = by_pool(recipe.reward)
    check_judges(recipe, rewards)
    check_checker(recipe.heldout.checker)
    fields = Fields(recipe.data.caption)
    prompts = load_prompts(recipe.data.heldout, "data.heldout", fields)
    if fields.caption and not fields.found:
        raise UserError(
            f"data.caption = {fields.caption!r}: no prompt has such a field; there are {shown(sorted(fields.seen))}"
        )
    for reward in rewards.values():
        check_captions(reward.options, (), prompts)
        check_prompts(reward.options, (), prompts)
    Draws(prompts, recipe.heldout)  # which refuses more prompts than there are
    return prompts


class Sheets:
    """All sheets in order: model by model, then by size, seed and guidance scale. `tasks`: the sheets of each draw task."""

    def __init__(self, recipe: EvaluateRecipe, models: Sequence[Model], prompts: Sequence[Prompt]) -> None:
        self.recipe, self.models, heldout = recipe, models, recipe.heldout
        draws = Draws(prompts, heldout)
        groups, self.images = draws.whole(), heldout.images_of_group
        sizes, shown = tasks_of(groups, heldout.groups_per_task), {groups[n].prompt.id for n in draws.shown_of(groups)}
        self.all: list[Sheet] = []
        self.tasks: list[range] = []
        for model, (height, width), seed in product(models, heldout.sizes, heldout.seeds):
            for size in sizes:
                self.tasks.append(range(begin := self.tasks[-1].stop if self.tasks else 0, begin + size))
            first_of_all = (height, width, seed) == (*heldout.sizes[0], heldout.seeds[0])
            for group in groups:
                way = Way(group.guidance_scale, height, width)
                samples = range(group.first_sample, group.first_sample + self.images)
                seen = first_of_all and group.first_sample == 0 and group.prompt.id in shown
                self.all.append(Sheet(model, way, seed, group.prompt, samples, seen))

    def request(self, numbers: Sequence[int]) -> DrawRequest:
        """Everything that decides the bytes of sheets that are drawn as one batch."""
        first = self.all[numbers[0]]
        return DrawRequest(
            purpose="evaluate",
            step=0,
            parts=tuple(self._part(number) for number in numbers),
            policy_version=0,
            adapter_sha256=first.model.sha256,
            num_steps=self.recipe.heldout.steps,
            guidance_scale=first.way.guidance,
            height=first.way.height,
            width=first.way.width,
            keep_latents=False,
        )

    def _part(self, number: int) -> DrawPart:
        sheet = self.all[number]
        seeds = tuple(noise_seed(sheet.seed, sheet.prompt, sample) for sample in sheet.samples)
        return DrawPart(number, 0, sheet.prompt.caption, noise_seeds=seeds, sample_seeds=())
