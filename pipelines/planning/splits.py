"""Which splits of the GPUs into ranks, rollout workers and those of each reward are worth a simulation, and which of those is the best."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul, truediv

from pipelines.planning.gpus import can_be_placed
from pipelines.planning.run import Figures, simulate
from pipelines.planning.times import Source, Times, value_of
from pipelines.preflight.memory.cards import card_needed
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Pool, Rollout
from pipelines.recipe.training import Recipe

CANDIDATES, ALIKE = 6, 2  # splits that are simulated
STALENESS = (0, 1, 2, 3, 4)
EQUAL = 0.03  # a plan that is slower by no more counts as equal to the fastest, and less staleness decides
TASKS = 4  # a step and worker, where the prompts are made to suit the workers
EXACT = 1e-9  # fractions of a GPU are sums of decimals


@dataclass(frozen=True)
class Split:
    """How many workers each pool gets; `rewards`: that of each reward, in the recipe's order."""

    ranks: int
    rollouts: int
    rewards: tuple[int, ...]

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with these sizes; the limits of its pools give way where they must."""
        rewards = tuple(_sized(table, size) for table, size in zip(recipe.rewards.values(), self.rewards, strict=True))
        changed = {
            "policy": recipe.policy.model_copy(update={"ranks": self.ranks}),
            "rollout": _sized(recipe.rollout, self.rollouts),
            "reward": rewards if recipe.combine else rewards[0],
        }
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
        pools = ("rollout", *given.rewards)
        sizes = ("policy.ranks", *(f"{pool}.size" for pool in pools), "loop.staleness")
        limits = [f"{pool}.{limit}" for pool in pools for limit in ("min", "max")]
        limits = [key for key in limits if value_of(given, key) != value_of(self.recipe, key)]
        return [f"{key}={value_of(self.recipe, key)}" for key in (*sizes, *limits)]


def own_split(recipe: Recipe) -> Split:
    """The one that a recipe has."""
    return Split(recipe.policy.ranks, recipe.rollout.size, tuple(table.size for table in recipe.rewards.values()))


def splits(recipe: Recipe, gpus: int, per_node: int, times: Times) -> Iterator[Split]:
    """The splits that can work, with as many reward workers as are left: in each pool at most a worker for each task of a step.

    How the room that is left is shared among several rewards is not searched: no other way has a lower bound (`growing`). So the
    best of these is the best of all by its bound; where its memory or its nodes refuse that one way, others of the same ranks
    and rollout workers are not tried. A pool whose workers ask for no GPU keeps its size.
    """
    drawing, shares = recipe.rollout.num_gpus, [table.num_gpus for table in recipe.rewards.values()]
    sizes = list(growing(*_rewards_to_grow(recipe, times), recipe.rollout.chunks_per_step, gpus))
    held = [sum(map(mul, shares, each)) for each in sizes]  # GPUs, more and more
    for ranks in rank_counts(recipe, gpus, per_node):
        left = gpus - ranks * recipe.policy.num_gpus
        most = (
            min(recipe.rollout.draws_per_step, int((left - held[0]) / drawing + EXACT))
            if drawing
            else recipe.rollout.size
        )
        for rollouts in range(1 if drawing else most, most + 1):
            if fit := bisect_right(held, left - rollouts * drawing + EXACT):
                yield Split(ranks, rollouts, sizes[fit - 1])


def growing(
    seconds: Sequence[float], shares: Sequence[float], sizes: Sequence[int], most: int, gpus: float
) -> Iterator[tuple[int, ...]]:
    """Sizes of pools that score the same images side by side, each time with a worker more for the slowest, within so many GPUs.

    Each has the shortest time of the slowest pool, among all sizes that hold no more GPUs. For whatever is faster than sizes n has
    more workers in the slowest pool of n; and so, step by step, at least as many in every pool, and holds at least the GPUs of what
    comes after n. Pools of no share of a GPU, and those with `most` workers, stay as they are. seconds: of one worker, for all.
    """
    grown = list(sizes)
    while sum(map(mul, shares, grown)) <= gpus + EXACT:
        yield tuple(grown)
        can = [pool for pool, share in enumerate(shares) if share and grown[pool] < most]
        if not can:
            return
        grown[max(can, key=lambda pool: seconds[pool] / grown[pool])] += 1


def rank_counts(recipe: Recipe, gpus: int, per_node: int) -> list[int]:
    """Any number within a node, powers of two and whole nodes, at most a rank for each chunk; one where the recipe trains without ZeRO."""
    if recipe.policy.zero_stage == 0:
        return [1]
    share = recipe.policy.num_gpus
    most = min(recipe.rollout.chunks_per_step, int(gpus / share + EXACT) if share else recipe.policy.ranks)
    powers = {2**n for n in range(most.bit_length())}
    of_a_node = max(1, int(per_node / share)) if share else 1
    counts = {*range(1, of_a_node), *powers, *range(of_a_node, most + 1, of_a_node)}
    return sorted(count for count in counts if count <= most)


def bound(rollout: Rollout, split: Split, times: Times) -> tuple[float, float]:
    """Seconds of a step below which no order of the work gets: of the slowest pool; and of all one after another, rewards side by side."""
    draws = rollout.draws_per_step * times.draw.seconds
    scores = (rollout.chunks_per_step * score.seconds for score in times.score.values())
    slowest_reward = max(map(truediv, scores, split.rewards))
    stages = (draws / split.rollouts, slowest_reward, times.update.seconds)
    return max(stages), sum(stages)


def candidates(recipe: Recipe, found: Iterable[Split], source: Source, fits: Fits) -> list[Split]:
    """The splits with the lowest bounds of those that fit their GPUs, the best first; ALIKE at most with the same number of ranks."""
    ones = (1,) * len(recipe.rewards)
    times_of = cache(lambda ranks: source.times(Split(ranks, 1, ones).of(recipe)))
    ordered = sorted(found, key=lambda split: bound(recipe.rollout, split, times_of(split.ranks)))
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
    times, own, chunks = source.times(recipe), own_split(recipe), recipe.rollout.chunks_per_step
    each = [chunks * score.seconds for score in times.score.values()]
    draws, scores = recipe.rollout.draws_per_step * times.draw.seconds, sum(each)
    updates = own.ranks * times.update.seconds
    ones = [1] * len(each)
    ranks = min(workers - 1 - len(each), max(1, round(workers * updates / (draws + scores + updates))))
    ranks = 1 if recipe.policy.zero_stage == 0 else ranks
    rollouts = min(workers - ranks - len(each), max(1, round((workers - ranks) * draws / (draws + scores))))
    rewards = deque(growing(each, ones, ones, workers, workers - ranks - rollouts), maxlen=1).pop()
    chunks_per_group = recipe.rollout.group_size // recipe.rollout.images_per_score
    prompts = -(-max(TASKS * max(rollouts * recipe.rollout.groups_per_task, *rewards), ranks) // chunks_per_group)
    rollout = recipe.rollout.model_copy(update={"prompts_per_step": prompts})
    grown = recipe.model_copy(update={"rollout": rollout})
    return Split(ranks, rollouts, rewards).of(grown)


def workers_of(recipe: Recipe) -> dict[str, tuple[int, float]]:
    """How many workers each pool has, and the GPUs of one."""
    pools = {"rollout": recipe.rollout, **recipe.rewards}
    sized = {name: (table.size, table.num_gpus) for name, table in pools.items()}
    return {"policy": (recipe.policy.ranks, recipe.policy.num_gpus), **sized}


def _sized(pool: Pool, size: int) -> Pool:
    most = None if pool.max is None else max(pool.max, size)
    return pool.model_copy(update={"size": size, "min": min(pool.min, size), "max": most})


def _rewards_to_grow(recipe: Recipe, times: Times) -> tuple[list[float], list[float], list[int]]:
    """For `growing`: seconds, GPUs of a worker, and the fewest workers of each reward."""
    tables = recipe.rewards.values()
    fewest = [1 if table.num_gpus else table.size for table in tables]
    return [times.score[pool].seconds for pool in recipe.rewards], [table.num_gpus for table in tables], fewest
