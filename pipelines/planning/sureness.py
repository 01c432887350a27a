"""How sure the planner is of its order of splits: what is left of it when an assumed time is off, and how a recipe's own split compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipelines.planning.gpus import GPUS
from pipelines.planning.splits import Fits, Split, bound, candidates, own_split, splits, workers_of
from pipelines.planning.times import Duration, Estimated, Source, Times
from pipelines.preflight.memory.cards import GIB
from pipelines.preflight.memory.models import Models
from pipelines.recipe.training import Recipe

OFF = 0.25  # how far an assumed time may be off
GOOD_SHARE = 0.9  # of the best split's speed
CARD, PER_NODE = "h100", 8  # for which the doctor compares


def least_share(recipe: Recipe, split: Split, others: Sequence[Split], source: Source) -> float:
    """The least share of the best split's speed that this one keeps when draws, scores or updates take OFF more or less than assumed."""
    assumed = {each: source.times(each.of(recipe)) for each in {split, *others}}
    shares = []
    for which, factor in perturbations():
        seconds = {each: step_seconds(recipe, each, changed(times, which, factor)) for each, times in assumed.items()}
        shares.append(min(seconds.values()) / seconds[split])
    return min(shares)


def perturbations() -> Iterator[tuple[str, float]]:
    """(which time, its factor): none, and each alone both ways."""
    yield "draw", 1.0
    for which in ("draw", "score", "update"):
        yield from ((which, 1 - OFF), (which, 1 + OFF))


def changed(times: Times, which: str, factor: float) -> Times:
    """The times with one of them longer or shorter."""
    duration: Duration = getattr(times, which)
    other: dict[str, Any] = {which: replace(duration, seconds=factor * duration.seconds)}
    return replace(times, **other)


def step_seconds(recipe: Recipe, split: Split, times: Times) -> float:
    """The bound on a step: the slowest stage alone where drawing goes on while the policy trains, else all stages."""
    slowest, one_after_another = bound(recipe, split, times)
    return slowest if recipe.loop.staleness else one_after_another


def split_warnings(recipe: Recipe, models: Models, gpu_memory: float) -> Iterator[str]:
    """What the planner says of the recipe's own split, if it is much slower than the best one for as many GPUs."""
    if recipe.combine:  # a plan knows one reward
        return
    workers = workers_of(recipe)
    gpus = sum(count * share for count, share in workers.values())
    if not all(share for _, share in workers.values()) or gpus != int(gpus):
        return
    source, own = Estimated(models, CARD, GPUS[CARD], PER_NODE), own_split(recipe)
    fits = Fits(models, int(gpus), PER_NODE, round(gpu_memory * GIB))
    best = next(iter(candidates(recipe, splits(recipe, int(gpus), PER_NODE), source, fits)), own)
    share = step_seconds(recipe, best, source.times(best.of(recipe))) / step_seconds(recipe, own, source.times(recipe))
    if share < GOOD_SHARE:
        yield (
            f"policy.ranks = {own.ranks}, rollout.size = {own.rollouts}, reward.size = {own.rewards}: by the planner's estimate "
            f"{share:.0%} as fast as {best.ranks}, {best.rollouts} and {best.rewards}: see python -m pipelines.plan RECIPE --gpus {gpus:g}"
        )
