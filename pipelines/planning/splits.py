"""Which splits of the GPUs into ranks, rollout and reward workers are worth a simulation, and which of those is the best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from pipelines.planning.gpus import can_be_placed
from pipelines.planning.run import Figures, simulate
from pipelines.planning.times import Source, Times, value_of
from pipelines.preflight.memory.cards import card_needed
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models
from pipelines.recipe.errors import UserError
from pipelines.recipe.reward import POOL
from pipelines.recipe.training import Recipe

CANDIDATES, ALIKE = 6, 2  # splits that are simulated
STALENESS = (0, 1, 2, 3, 4)
EQUAL = 0.03  # a plan that is slower by no more counts as equal to the fastest, and less staleness decides
LIMITS = ("rollout.min", "rollout.max", "reward.min", "reward.max")
TASKS = 4  # a step and worker, where the prompts are made to suit the workers
EXACT = 1e-9  # fractions of a GPU are sums of decimals


@dataclass(frozen=True)
class Split:
    """How many workers each pool gets."""

    ranks: int
    rollouts: int
    rewards: int

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with these sizes; the limits of its pools give way where they must."""
        changed = {"policy": recipe.policy.model_copy(update={"ranks": self.ranks})}
        for name, size in (("rollout", self.rollouts), ("reward", self.rewards)):
            pool = getattr(recipe, name)
            most = None if pool.max is None else max(pool.max, size)
            changed[name] = pool.model_copy(update={"size": size, "min": min(pool.min, size), "max": most})
        return recipe.model_copy(update=changed)


@dataclass(frozen=True)
class Plan:
    """A recipe with other sizes and staleness, and what it comes to."""

    recipe: Recipe
    figures: Figures

    @property
    def gpus(self) -> float:
        """GPUs that its workers hold."""
        return sum(count * share for count, share in workers_of(self.recipe).values())

    @property
    def gpu_hours(self) -> float:
        """For all steps of the recipe at this speed, evaluations and the start left out."""
        return self.recipe.loop.steps * self.figures.step_s * self.gpus / 3600

    def overrides(self, given: Recipe) -> list[str]:
        """What to change in a recipe to have this plan, as the texts of --set."""
        sizes = ("policy.ranks", "rollout.size", "reward.size", "loop.staleness")
        limits = [key for key in LIMITS if value_of(given, key) != value_of(self.recipe, key)]
        return [f"{key}={value_of(self.recipe, key)}" for key in (*sizes, *limits)]


def own_split(recipe: Recipe) -> Split:
    """The one that a recipe has."""
    return Split(recipe.policy.ranks, recipe.rollout.size, recipe.rewards[POOL].size)


def splits(recipe: Recipe, gpus: int, per_node: int) -> Iterator[Split]:
    """Every split that can work, with as many reward workers as are left: in each pool at most a worker for each task of a step.

    A pool whose workers ask for no GPU keeps its size.
    """
    chunks = recipe.chunks_per_step
    drawing, scoring = recipe.rollout.num_gpus, recipe.rewards[POOL].num_gpus
    for ranks in rank_counts(recipe, gpus, per_node):
        left = gpus - ranks * recipe.policy.num_gpus
        most = min(recipe.draws_per_step, int((left - scoring) / drawing + EXACT)) if drawing else recipe.rollout.size
        for rollouts in range(1 if drawing else most, most + 1):
            room = left - rollouts * drawing
            rewards = min(chunks, int(room / scoring + EXACT)) if scoring else recipe.rewards[POOL].size
            if rewards >= 1:
                yield Split(ranks, rollouts, rewards)


def rank_counts(recipe: Recipe, gpus: int, per_node: int) -> list[int]:
    """Any number within a node, powers of two and whole nodes, at most a rank for each chunk; one where the recipe trains without ZeRO."""
    if recipe.policy.zero_stage == 0:
        return [1]
    share = recipe.policy.num_gpus
    most = min(recipe.chunks_per_step, int(gpus / share + EXACT) if share else recipe.policy.ranks)
    powers = {2**n for n in range(most.bit_length())}
    of_a_node = max(1, int(per_node / share)) if share else 1
    counts = {*range(1, of_a_node), *powers, *range(of_a_node, most + 1, of_a_node)}
    return sorted(count for count in counts if count <= most)


def bound(recipe: Recipe, split: Split, times: Times) -> tuple[float, float]:
    """Seconds of a step below which no order of the work gets: of the slowest pool; and of all pools one after another."""
    draws = recipe.draws_per_step * times.draw.seconds
    scores = recipe.chunks_per_step * times.score.seconds
    stages = (draws / split.rollouts, scores / split.rewards, times.update.seconds)
    return max(stages), sum(stages)


def candidates(recipe: Recipe, found: Iterable[Split], source: Source, fits: Fits) -> list[Split]:
    """The splits with the lowest bounds of those that fit their GPUs, the best first; ALIKE at most with the same number of ranks."""
    times_of = cache(lambda ranks: source.times(Split(ranks, 1, 1).of(recipe)))
    ordered = sorted(found, key=lambda split: bound(recipe, split, times_of(split.ranks)))
    chosen: list[Split] = []
    for split in ordered:
        alike = sum(split.ranks == other.ranks for other in chosen)
        if alike < ALIKE and len(chosen) < CANDIDATES and fits(split.of(recipe)):
            chosen.append(split)
    return chosen


class Fits:
    """Whether a recipe's workers find room on nodes of GPUs, and their memory on cards of `card` bytes (estimated, as by the doctor)."""

    def __init__(self, models: Models, gpus: int, per_node: int, card: int) -> None:
        self.models, self.gpus, self.per_node, self.card = models, gpus, per_node, card
        self._needs: dict[tuple[int, ...], int] = {}

    def __call__(self, recipe: Recipe) -> bool:
        workers = workers_of(recipe)
        # who meets on a card depends on no more workers than share one
        sharing = (min(count, int(1 / share)) if 0 < share < 1 else 1 for count, share in workers.values())
        key = (recipe.policy.ranks, *sharing)
        if key not in self._needs:
            self._needs[key] = card_needed(estimate(recipe, self.models).actors)
        return self._needs[key] <= self.card and can_be_placed(workers, self.gpus, self.per_node)


def plans(recipe: Recipe, chosen: Iterable[Split], source: Source, steady: int) -> Iterator[Plan]:
    """Each split simulated with each staleness, for so many steady steps."""
    for split in chosen:
        for staleness in STALENESS:
            sized = split.of(recipe)
            loop = sized.loop.model_copy(update={"staleness": staleness})
            changed = sized.model_copy(update={"loop": loop})
            yield Plan(changed, simulate(changed, source.times(changed), steady=steady))


def best_of(found: list[Plan]) -> Plan:
    """The fastest; of those that are about as fast, the one with the least staleness."""
    fastest = max(plan.figures.images_per_s for plan in found)
    equal = [plan for plan in found if plan.figures.images_per_s >= fastest * (1 - EQUAL)]
    return min(equal, key=lambda plan: (plan.recipe.loop.staleness, -plan.figures.images_per_s))


def check_gpus(recipe: Recipe, gpus: int, per_node: int) -> None:
    """Raises UserError for a recipe that asks for no GPU, and for GPUs too few for one worker of each pool."""
    shares = {name: share for name, (_, share) in workers_of(recipe).items()}
    if not any(shares.values()):
        raise UserError(
            f"--gpus {gpus}: no worker of the recipe asks for a GPU; say how many each needs, such as --set rollout.num_gpus=1.0, or leave "
            "out --gpus to plan the recipe's own sizes"
        )
    one_each = {name: (1, share) for name, share in shares.items()}
    if not can_be_placed(one_each, gpus, per_node):
        listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise UserError(
            f"--gpus {gpus}: too few for one worker of each pool (GPUs of a worker: {listed}); give more GPUs, or lower num_gpus to "
            "fractions so that workers share one"
        )


def scaled(recipe: Recipe, workers: int, source: Source) -> Recipe:
    """The recipe on so many workers, shared out by the work of each stage, with prompts for TASKS of each worker of the larger pool."""
    times, own = source.times(recipe), own_split(recipe)
    draws, scores = recipe.draws_per_step * times.draw.seconds, recipe.chunks_per_step * times.score.seconds
    updates = own.ranks * times.update.seconds
    ranks = min(workers - 2, max(1, round(workers * updates / (draws + scores + updates))))
    ranks = 1 if recipe.policy.zero_stage == 0 else ranks
    rollouts = min(workers - ranks - 1, max(1, round((workers - ranks) * draws / (draws + scores))))
    rewards = workers - ranks - rollouts
    chunks_per_group = recipe.rollout.group_size // recipe.chunk
    prompts = -(-max(TASKS * max(rollouts * recipe.rollout.groups_per_task, rewards), ranks) // chunks_per_group)
    rollout = recipe.rollout.model_copy(update={"prompts_per_step": prompts})
    grown = recipe.model_copy(update={"rollout": rollout})
    return Split(ranks, rollouts, rewards).of(grown)


def workers_of(recipe: Recipe) -> dict[str, tuple[int, float]]:
    """How many workers each pool has, and the GPUs of one."""
    pools = {"policy": recipe.policy.ranks, "rollout": recipe.rollout.size, "reward": recipe.rewards[POOL].size}
    return {name: (count, getattr(recipe, name).num_gpus) for name, count in pools.items()}
