"""The first thing to change in a recipe that does not fit its GPUs: mostly one key and its value, and what it saves."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.preflight.memory.cards import card_needed
from pipelines.preflight.memory.counts import rows_of_update
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import apply_override, dump_recipe, parse_recipe
from pipelines.recipe.training import Recipe

ENOUGH_TOKENS = 4096  # of a backward pass, to keep a GPU busy: a guess
LEAST_SAVED = 2**26  # bytes: less is not worth a word

SHARES = 20  # of a GPU: fractions are proposed in steps of 0.05

Override = dict[str, Any]  # key -> value; nearly always one
Options = Callable[[Recipe, Models], Iterator[Override]]


@dataclass(frozen=True)
class Change:
    """Set these keys: by how many bytes a smaller card then does, and whether all fits."""

    settings: Override
    saved: int
    fits: bool

    def __str__(self) -> str:
        """As in TOML."""
        return ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.settings.items())


def first_change(recipe: Recipe, models: Models, room: int) -> Change | None:
    """The gentlest single change after which cards of `room` bytes suffice; where none does it, the one that saves most.

    None where all keys together do not suffice, which leaves a smaller model or a larger GPU. Tiers go from changes that cost only
    time to those that take more GPUs and those that change what is trained.
    """
    before = _need(recipe, models)
    for last in range(1, len(TIERS) + 1):
        tiers = TIERS[:last]
        if _need(_frugal(recipe, models, tiers), models) > room:
            continue
        changes = [
            Change(settings, before - need, need <= room)
            for options in (options for tier in tiers for options in tier)
            for settings in options(recipe, models)
            if (changed := changed_by(recipe, settings)) is not None
            for need in [_need(changed, models)]
        ]
        fitting = [change for change in changes if change.fits]
        useful = [change for change in changes if change.saved >= LEAST_SAVED]
        if fitting:
            return fitting[0]
        return max(useful, key=lambda change: change.saved) if useful else None
    return None


def least_need(recipe: Recipe, models: Models) -> int:
    """The card that is needed with every key that `first_change` knows at its most frugal, in bytes."""
    return _need(_frugal(recipe, models, TIERS), models)


def changed_by(recipe: Recipe, settings: Override) -> Recipe | None:
    """The recipe with these keys set; None if it then cannot be run."""
    tables = tomllib.loads(dump_recipe(recipe))
    for key, value in settings.items():
        apply_override(tables, f"{key}={json.dumps(value)}")
    try:
        return parse_recipe(tables, source="the recipe")
    except UserError:
        return None


def _need(recipe: Recipe, models: Models) -> int:
    return card_needed(estimate(recipe, models).actors)


def _frugal(recipe: Recipe, models: Models, tiers: Sequence[Sequence[Options]]) -> Recipe:
    """The recipe changed by these tiers' options, again and again, as long as one lowers its need."""
    need, before = _need(recipe, models), None
    while need != before:
        before = need
        for options in (options for tier in tiers for options in tier):
            for settings in options(recipe, models):
                changed = changed_by(recipe, settings)
                if changed is not None and (less := _need(changed, models)) < need:
                    recipe, need = changed, less
    return recipe


def _gentle_micro_batch(recipe: Recipe, models: Models) -> Iterator[Override]:
    """Smaller micro-batches as long as a backward has tokens enough; the gradient is the same."""
    shape = models.image.shape(recipe.policy.max_sequence_length)
    image = shape.image_tokens(recipe.rollout.height, recipe.rollout.width)
    rows = rows_of_update(recipe.rollout, recipe.policy, recipe.objective, shape)
    tokens = rows * (image + shape.text) / recipe.policy.micro_batch
    for value in range(recipe.policy.micro_batch - 1, 0, -1):
        if value * tokens >= ENOUGH_TOKENS:
            yield {"policy.micro_batch": value}


def _micro_batch(recipe: Recipe, models: Models) -> Iterator[Override]:
    for value in range(recipe.policy.micro_batch - 1, 0, -1):
        yield {"policy.micro_batch": value}


def _checkpointing(recipe: Recipe, models: Models) -> Iterator[Override]:
    if not recipe.policy.activation_checkpointing:
        yield {"policy.activation_checkpointing": True}


def _park(recipe: Recipe, models: Models) -> Iterator[Override]:
    for pool, table in (
        ("policy", recipe.policy),
        ("rollout", recipe.rollout),
    ):  # rollout last: it encodes for every task
        if table.text_encoders == "keep":
            yield {f"{pool}.text_encoders": "park"}


def _groups_per_task(recipe: Recipe, models: Models) -> Iterator[Override]:
    for value in range(recipe.rollout.groups_per_task - 1, 0, -1):
        yield {"rollout.groups_per_task": value}


def _heldout_groups_per_task(recipe: Recipe, models: Models) -> Iterator[Override]:
    if recipe.data.heldout:
        for value in range(recipe.heldout.groups_per_task - 1, 0, -1):
            yield {"heldout.groups_per_task": value}


def _chunk(recipe: Recipe, models: Models) -> Iterator[Override]:
    size = recipe.rollout.group_size
    for value in range(recipe.rollout.images_per_score - 1, 0, -1):
        if size % value == 0:
            yield {"rollout.chunk": value}


def _heldout_chunk(recipe: Recipe, models: Models) -> Iterator[Override]:
    if recipe.data.heldout:
        for value in _halves(recipe.heldout.chunk):
            yield {"heldout.chunk": value}


def _stage(recipe: Recipe, models: Models) -> Iterator[Override]:
    if recipe.policy.ranks > 1:
        for stage in range(recipe.policy.zero_stage + 1, 4):
            yield {"policy.zero_stage": stage}


def _own_gpus(recipe: Recipe, models: Models) -> Iterator[Override]:
    for pool, table in {**recipe.rewards, "rollout": recipe.rollout, "policy": recipe.policy}.items():
        if 0 < table.num_gpus < 1:
            yield {f"{pool}.num_gpus": 1.0}


def _points(recipe: Recipe, models: Models) -> Iterator[Override]:
    for fewer in _halves(recipe.objective.points):
        yield {f"objective.{recipe.objective.points_key}": fewer}


def _halves(value: int) -> Iterator[int]:
    while (value := value // 2) >= 1:
        yield value


def _shares(recipe: Recipe, models: Models) -> Iterator[Override]:
    """Workers that share one GPU share it by what torch takes for each of them."""
    sharing = [actor for actor in estimate(recipe, models).actors if actor.gpu and actor.num_gpus < 1]
    if len(sharing) < 2 or any(actor.count > 1 for actor in sharing) or sum(actor.num_gpus for actor in sharing) > 1:
        return
    exact = {actor.pool: SHARES * actor.of_torch / sum(other.of_torch for other in sharing) for actor in sharing}
    steps = {pool: int(share) for pool, share in exact.items()}
    for pool in sorted(exact, key=lambda pool: steps[pool] - exact[pool])[: SHARES - sum(steps.values())]:
        steps[pool] += 1
    yield {f"{pool}.num_gpus": count / SHARES for pool, count in steps.items()}


TIERS: tuple[tuple[Options, ...], ...] = (
    (
        _shares,
        _gentle_micro_batch,
        _groups_per_task,
        _heldout_groups_per_task,
        _park,
        _checkpointing,
        _micro_batch,
        _chunk,
        _heldout_chunk,
        _stage,
    ),
    (_own_gpus,),
    (_points,),
)
"""What a change costs: time; GPUs; a different run. Within a tier the gentler first."""
