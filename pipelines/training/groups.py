"""From a recipe to what is asked of workers: the loop's plan, the request that decides a batch's bytes, the ranks' shares of an update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from actors.messages import DrawPart, DrawReport, DrawRequest, Prompt, Scores, UpdateGroup
from actors.seeds import seed_of
from pipelines.data.prompts import PromptOrder
from pipelines.engine.messages import GroupKey, LoopPlan, Steps, Sweeps, Unit
from pipelines.evaluation.draws import noise_seed
from pipelines.recipe.tables import LoopTable, Noise, Rollout
from pipelines.training.heldout_plan import HeldoutPlan

TRAIN, HELDOUT = "train", "heldout"  # the streams
STORE_SHARE = 0.6  # the rest is for what is not counted: adapters, snapshots, copies on other nodes


@dataclass(frozen=True)
class Chunk:
    """A drawn chunk: the report of its draw, handles to its payloads, its scores by the pools that gave them.

    `checks`: what the checker said of it, if it is held out.
    """

    report: DrawReport
    images: Any
    latents: Any
    scores: Mapping[str, Scores] = field(default_factory=dict)
    checks: Mapping[str, Sequence[float]] = field(default_factory=dict)


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

    def rewards_K(self, pool: str) -> list[float]:
        """Its rewards by a pool, chunk after chunk. Raises KeyError for a group that the pool has not scored."""
        return [reward for chunk in self.in_order() for reward in chunk.scores[pool].rewards_K]


def loop_plan(
    loop: LoopTable,
    rollout: Rollout,
    rewards: Iterable[str],
    heldout: HeldoutPlan,
    first_version: int,
    evaluated: tuple[int, ...],
    object_store_bytes: int | None = None,
) -> LoopPlan:
    """The loop's plan. `rewards`: the pools that score; `first_version`: to begin from; `evaluated`: versions that are done.

    Without a limit in the recipe, admission pauses when payloads in flight fill STORE_SHARE of the cluster's object store.
    """
    store_share = int(STORE_SHARE * object_store_bytes) if object_store_bytes else None
    stages = (("rollout",), tuple(rewards))
    train = Steps(
        stages,
        loop.steps,
        groups_per_step=rollout.prompts_per_step,
        chunks_per_group=rollout.group_size // rollout.images_per_score,
        groups_per_task=rollout.groups_per_task,
        staleness=loop.staleness,
        order=loop.order,
    )
    due = {version: heldout.tasks(version) for version in heldout.versions() if version not in evaluated}
    return LoopPlan(
        streams={TRAIN: train, HELDOUT: Sweeps(stages, due)},
        first_version=first_version,
        retries=loop.retries,
        lost_retries=loop.lost_retries,
        max_failures_in_row=loop.max_failures_in_row,
        max_groups_in_flight=loop.max_groups_in_flight,
        max_bytes_in_flight=loop.max_bytes_in_flight or store_share,
    )


def open_group(unit: Unit, version: int, order: PromptOrder, heldout: HeldoutPlan) -> Group:
    """Which prompt a group is of."""
    if unit.stream == HELDOUT:
        return Group(unit.key, heldout.groups(unit.step)[unit.group].prompt, version)
    prompt, epoch = order.prompt(unit.step, unit.group)
    return Group(unit.key, prompt, version, epoch)


def training_seeds(seed: int, group: Group, samples: range) -> tuple[int, ...]:
    """The seed of what is random about each sample beside its starting noise: its points in the loss, its stochastic steps."""
    return tuple(seed_of(seed, "training", group.epoch, group.prompt.id, sample) for sample in samples)


def noise_seeds(seed: int, noise: Noise, group: Group, samples: range) -> tuple[int, ...]:
    """The seed of each sample's starting noise. Held-out noise is the same at every version, so that pictures compare."""
    if group.key.stream == HELDOUT:
        return tuple(noise_seed(seed, group.prompt, sample) for sample in samples)
    shared = noise == "group"
    return tuple(seed_of(seed, "noise", group.epoch, group.prompt.id, 0 if shared else sample) for sample in samples)


def group_samples(group_size: int, heldout: HeldoutPlan, group: Group) -> range:
    """The numbers of a group's samples, of all its chunks."""
    if group.key.stream == TRAIN:
        return range(group_size)
    first = heldout.groups(group.key.step)[group.key.group].first_sample
    return range(first, first + heldout.settings.images_of_group)


def draw_request(
    seed: int, rollout: Rollout, heldout: HeldoutPlan, batch: Sequence[tuple[Unit, Group]], adapter_sha256: str
) -> DrawRequest:
    """Everything that decides the bytes of a batch of chunks, which are of one step and one policy version."""
    unit, group = batch[0]
    training = unit.stream == TRAIN
    if training:
        num_steps, guidance_scale = rollout.steps, rollout.guidance_scale
    else:
        num_steps = heldout.settings.steps
        guidance_scale = heldout.groups(unit.step)[unit.group].guidance_scale
    return DrawRequest(
        purpose=unit.stream,
        step=unit.step,
        parts=tuple(_part(seed, rollout, heldout, unit, group) for unit, group in batch),
        policy_version=group.version,
        adapter_sha256=adapter_sha256,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        height=rollout.height,
        width=rollout.width,
        keep_latents=training,
    )


def _part(seed: int, rollout: Rollout, heldout: HeldoutPlan, unit: Unit, group: Group) -> DrawPart:
    samples = group_samples(rollout.group_size, heldout, group)
    if unit.stream == TRAIN:
        samples = samples[unit.chunk * rollout.images_per_score : (unit.chunk + 1) * rollout.images_per_score]
    return DrawPart(
        group=unit.group,
        chunk=unit.chunk,
        caption=group.prompt.caption,
        noise_seeds=noise_seeds(seed, rollout.noise, group, samples),
        sample_seeds=training_seeds(seed, group, samples),
    )


def update_shares(
    seed: int, images_per_score: int, ranks: int, groups: Sequence[Group], advantages_PK: np.ndarray
) -> tuple[tuple, ...]:
    """For each policy rank (its pieces of groups, and the handles of their latents): the chunks in order, cut evenly."""
    pairs = zip(groups, advantages_PK, strict=True)
    pieces = [piece for group, advantages_K in pairs for piece in _pieces(seed, images_per_score, group, advantages_K)]
    cuts = [len(pieces) * rank // ranks for rank in range(ranks + 1)]
    shares = [pieces[first:last] for first, last in pairwise(cuts)]
    return tuple((tuple(piece for piece, _ in share), *(latents for _, latents in share)) for share in shares)


def _pieces(
    seed: int, images_per_score: int, group: Group, advantages_K: np.ndarray
) -> Iterator[tuple[UpdateGroup, Any]]:
    """What the learner gets for each chunk of a group, with the handle of its latents."""
    for number in sorted(group.chunks):
        samples = range(number * images_per_score, (number + 1) * images_per_score)
        piece = UpdateGroup(
            step=group.key.step,
            group=group.key.group,
            prompt_id=group.prompt.id,
            caption=group.drawn_prompt().caption,
            policy_version=group.version,
            advantages_K=tuple(float(advantages_K[sample]) for sample in samples),
            sample_seeds=training_seeds(seed, group, samples),
        )
        yield piece, group.chunks[number].latents
