"""From a recipe to what is asked of workers: the loop's plan, the request that decides a chunk's bytes, a group's share of an update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.messages import DrawReport, DrawRequest, Prompt, Scores, UpdateGroup
from actors.seeds import seed_of
from pipelines.config import Recipe
from pipelines.evaluation import HeldoutPlan
from pipelines.loop_messages import GroupKey, LoopPlan, Unit
from pipelines.prompts import PromptOrder


@dataclass(frozen=True)
class Chunk:
    """A drawn chunk: the report of its draw, handles to its payloads, and its scores once it has them."""

    report: DrawReport
    images: Any
    latents: Any
    scores: Scores | None = None


@dataclass
class Group:
    """A group in flight, with its drawn chunks by number. `epoch`: how often its prompt came before."""

    key: GroupKey
    prompt: Prompt
    version: int
    epoch: int = 0
    chunks: dict[int, Chunk] = field(default_factory=dict)

    def in_order(self) -> list[Chunk]:
        """Its chunks by number."""
        return [self.chunks[number] for number in sorted(self.chunks)]

    def drawn_prompt(self) -> Prompt:
        """The prompt with the caption as it was drawn, which may have been cut."""
        caption = next(iter(self.chunks.values())).report.caption
        return Prompt(self.prompt.id, caption, self.prompt.category, self.prompt.extra)

    def rewards_K(self) -> list[float]:
        """Its rewards, chunk after chunk. Only for a group that is scored."""
        return [reward for chunk in self.in_order() if chunk.scores for reward in chunk.scores.rewards_K]


def loop_plan(recipe: Recipe, heldout: HeldoutPlan, first_version: int, evaluated: tuple[int, ...]) -> LoopPlan:
    """What the loop is told: the recipe, the version to begin from, and the evaluations that are still to be done."""
    return LoopPlan(
        steps=recipe.loop.steps,
        first_version=first_version,
        groups_per_step=recipe.rollout.prompts_per_step,
        chunks_per_group=recipe.rollout.group_size // recipe.chunk,
        staleness=recipe.loop.staleness,
        order=recipe.loop.order,
        retries=recipe.loop.retries,
        max_failures_in_row=recipe.loop.max_failures_in_row,
        max_groups_in_flight=recipe.loop.max_groups_in_flight,
        max_bytes_in_flight=recipe.loop.max_bytes_in_flight,
        evaluations={
            version: len(heldout.groups(version)) for version in heldout.versions() if version not in evaluated
        },
    )


def open_group(unit: Unit, version: int, order: PromptOrder, heldout: HeldoutPlan) -> Group:
    """Which prompt a group is of."""
    if unit.purpose == "heldout":
        return Group(unit.key, heldout.groups(unit.step)[unit.group].prompt, version)
    prompt, epoch = order.prompt(unit.step, unit.group)
    return Group(unit.key, prompt, version, epoch)


def training_seeds(recipe: Recipe, group: Group, samples: range) -> tuple[int, ...]:
    """The seed of each sample's (sigma, noise) pairs in the loss."""
    return tuple(seed_of(recipe.run.seed, "training", group.epoch, group.prompt.id, sample) for sample in samples)


def draw_request(recipe: Recipe, heldout: HeldoutPlan, unit: Unit, group: Group, adapter_sha256: str) -> DrawRequest:
    """Everything that decides the bytes of a chunk. Held-out noise is the same at every version, so that pictures compare."""
    training = unit.purpose == "train"
    if training:
        samples = range(unit.chunk * recipe.chunk, (unit.chunk + 1) * recipe.chunk)
        num_steps, guidance_scale = recipe.rollout.steps, recipe.rollout.guidance_scale
    else:
        shown = heldout.groups(unit.step)[unit.group]
        samples = range(shown.first_sample, shown.first_sample + recipe.heldout.chunk)
        num_steps, guidance_scale = recipe.heldout.steps, shown.guidance_scale
    noise = (recipe.run.seed, "noise" if training else "heldout", group.epoch, group.prompt.id)
    return DrawRequest(
        purpose=unit.purpose,
        step=unit.step,
        group=unit.group,
        chunk=unit.chunk,
        caption=group.prompt.caption,
        noise_seeds=tuple(seed_of(*noise, sample) for sample in samples),
        sample_seeds=training_seeds(recipe, group, samples),
        policy_version=group.version,
        adapter_sha256=adapter_sha256,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        height=recipe.rollout.height,
        width=recipe.rollout.width,
        keep_latents=training,
        measure_behaviour=training and recipe.objective.behaviour == "measured",
    )


def update_group(recipe: Recipe, group: Group, advantages_K: np.ndarray) -> UpdateGroup:
    """What the learner is told of a group."""
    return UpdateGroup(
        step=group.key.step,
        group=group.key.group,
        prompt_id=group.prompt.id,
        caption=group.drawn_prompt().caption,
        policy_version=group.version,
        advantages_K=tuple(map(float, advantages_K)),
        sample_seeds=training_seeds(recipe, group, range(recipe.rollout.group_size)),
    )
