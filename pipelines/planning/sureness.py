"""How sure the planner is of its order of splits: what is left of it when an assumed time is off, and how a recipe's own split compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pipelines.planning.gpus import GPUS
from pipelines.planning.splits import Fits, Split, bound, candidates, own_split, splits, workers_of
from pipelines.planning.times import Duration, Estimated, Source, Times
from pipelines.preflight.memory.cards import GIB
from pipelines.preflight.memory.models import Models
from pipelines.recipe.tables import LoopTable, Rollout
from pipelines.recipe.training import Recipe

OFF = 0.25  # how far an assumed time may be off
GOOD_SHARE = 0.9  # of the best split's speed
CARD, PER_NODE = "h100", 8  # for which the doctor compares


def least_share(recipe: Recipe, split: Split, others: Sequence[Split], source: Source) -> float:
    """The least share of the best split's speed that this one keeps when draws, scores or updates take OFF more or less than assumed."""
    assumed = {each: source.times(each.of(recipe)) for each in {split, *others}}
    shares = []
    for which, factor in perturbations(recipe.rewards):
        seconds = {
            each: step_seconds(recipe.loop, recipe.rollout, each, changed(times, which, factor))
            for each, times in assumed.items()
        }
        shares.append(min(seconds.values()) / seconds[split])
    return min(shares)


def perturbations(rewards: Iterable[str]) -> Iterator[tuple[str, float]]:
    """(which time, its factor): none, and each alone both ways. A time of a score has the name of its pool."""
    yield "draw", 1.0
    for which in ("draw", *rewards, "update"):
        yield from ((which, 1 - OFF), (which, 1 + OFF))


def changed(times: Times, which: str, factor: float) -> Times:
    """The times with one of them longer or shorter."""

    def longer(duration: Duration, name: str) -> Duration:
        return replace(duration, seconds=factor * duration.seconds) if name == which else duration

    score = {pool: longer(duration, pool) for pool, duration in times.score.items()}
    return replace(times, draw=longer(times.draw, "draw"), score=score, update=longer(times.update, "update"))


def step_seconds(loop: LoopTable, rollout: Rollout, split: Split, times: Times) -> float:
    """The bound on a step: the slowest stage alone where drawing goes on while the policy trains, else all stages."""
    slowest, one_after_another = bound(rollout, split, times)
    return slowest if loop.staleness else one_after_another


def split_warnings(recipe: Recipe, models: Models, gpu_memory: float) -> Iterator[str]:
    """What the planner says of the recipe's own split, if it is much slower than the best one for as many GPUs."""
    workers = workers_of(recipe)
    gpus = sum(count * share for count, share in workers.values())
    if not all(share for _, share in workers.values()) or gpus != int(gpus):
        return
    source, own = Estimated(models, CARD, GPUS[CARD], PER_NODE), own_split(recipe)
    fits = Fits(models, int(gpus), PER_NODE, round(gpu_memory * GIB))
    times, loop, rollout = source.times(recipe), recipe.loop, recipe.rollout
    best = next(iter(candidates(recipe, splits(recipe, int(gpus), PER_NODE, times), source, fits)), own)
    fastest = step_seconds(loop, rollout, best, source.times(best.of(recipe)))
    share = fastest / step_seconds(loop, rollout, own, times)
    if share < GOOD_SHARE:
        rewards = ", ".join(f"{pool}.size = {reward.size}" for pool, reward in recipe.rewards.items())
        *others, last = best.ranks, best.rollouts, *best.rewards
        yield (
            f"policy.ranks = {own.ranks}, rollout.size = {own.rollouts}, {rewards}: by the planner's estimate "
            f"{share:.0%} as fast as {', '.join(map(str, others))} and {last}: see python -m pipelines.plan RECIPE --gpus {gpus:g}"
        )
