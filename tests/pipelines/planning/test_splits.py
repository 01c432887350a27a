"""Which splits are tried, which are chosen, and how one is written down."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from operator import mul, truediv
from pathlib import Path

import pytest

from pipelines.planning.gpus import GPUS, can_be_placed
from pipelines.planning.run import Figures
from pipelines.planning.splits import (
    ALIKE,
    CANDIDATES,
    Fits,
    Plan,
    Split,
    best_of,
    bound,
    candidates,
    check_gpus,
    growing,
    own_split,
    plans,
    rank_counts,
    scaled,
    splits,
)
from pipelines.planning.sureness import least_share, split_warnings
from pipelines.planning.times import Duration, Estimated, Times
from pipelines.preflight.memory.cards import GIB
from pipelines.preflight.memory.models import Models, models_to_estimate
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

SD35 = Path("recipes/sd35m_8gpu.toml")  # 3 + 1 + 4 GPUs, 144 chunks a step
ONE_EACH = Times(Duration(1.0), {"reward": Duration(1.0)}, Duration(1.0), 1)


class Told:
    """A source of times for tests: an update is shared by its ranks."""

    note = ""

    def __init__(self, draw: float, score: float, update: float) -> None:
        self.draw, self.score, self.update = draw, score, update

    def times(self, recipe: Recipe) -> Times:
        return Times(
            Duration(self.draw), {"reward": Duration(self.score)}, Duration(self.update / recipe.policy.ranks), 1
        )


def sd35(*overrides: str) -> Recipe:
    return load_recipe(SD35, overrides)


def models() -> Models:
    recipe = sd35()
    return models_to_estimate(recipe.policy, recipe.rewards)


def fits(gpus: int, card: float = 80) -> Fits:
    return Fits(models(), gpus, 8, round(card * GIB))


def test_every_split_uses_the_gpus_and_no_more() -> None:
    found = list(splits(sd35(), 8, 8, ONE_EACH))
    assert all(split.ranks + split.rollouts + sum(split.rewards) == 8 for split in found)
    assert Split(2, 4, (2,)) in found
    assert len(found) == len(set(found)) == sum(7 - ranks for ranks in range(1, 7))


def test_fractions_of_a_gpu_give_more_workers() -> None:
    found = list(splits(sd35("reward.num_gpus=0.25"), 8, 8, ONE_EACH))
    assert Split(4, 3, (4,)) in found
    assert all(split.ranks + split.rollouts + 0.25 * sum(split.rewards) <= 8 for split in found)


def test_pools_get_no_more_workers_than_a_step_has_chunks() -> None:
    few = sd35("rollout.prompts_per_step=2")  # 4 chunks
    found = list(splits(few, 64, 8, ONE_EACH))
    assert max(split.rollouts for split in found) == max(split.rewards[0] for split in found) == 4
    assert rank_counts(few, 64, 8) == [1, 2, 3, 4]


def test_ranks_are_any_number_within_a_node_and_whole_nodes_beyond() -> None:
    assert rank_counts(sd35(), 40, 8) == [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40]
    assert rank_counts(sd35("policy.ranks=1", "policy.zero_stage=0"), 40, 8) == [1]


def test_a_pool_without_gpus_keeps_its_size() -> None:
    assert {split.rewards[0] for split in splits(sd35("reward.num_gpus=0.0"), 8, 8, ONE_EACH)} == {1}


def test_the_bound_is_the_slowest_pool() -> None:
    times = Told(draw=1.0, score=0.5, update=90.0).times(sd35("policy.ranks=2"))
    slowest, together = bound(sd35().rollout, Split(2, 4, (2,)), times)
    assert slowest == 90.0 / 2
    assert together == 144 / 4 + 72 / 2 + 45


def test_candidates_have_the_lowest_bounds_and_differ_in_their_ranks() -> None:
    recipe, source = sd35(), Told(draw=1.0, score=0.5, update=144.0)
    chosen = candidates(recipe, splits(recipe, 8, 8, ONE_EACH), source, fits(8))
    bounds = [bound(recipe.rollout, split, source.times(split.of(recipe))) for split in chosen]
    assert bounds == sorted(bounds)
    assert chosen[0] == Split(3, 3, (2,))  # 48, 48 and 36 seconds
    assert len(chosen) == CANDIDATES
    assert all(sum(split.ranks == other.ranks for other in chosen) <= ALIKE for split in chosen)


def test_what_does_not_fit_a_card_or_its_nodes_is_no_candidate() -> None:
    recipe, source = sd35(), Told(1.0, 1.0, 1.0)
    assert candidates(recipe, splits(recipe, 8, 8, ONE_EACH), source, fits(8, card=16)) == []
    wide = sd35("reward.num_gpus=3.0")
    assert not fits(8)(Split(4, 2, (1,)).of(sd35("reward.num_gpus=5.0")))
    assert fits(8)(Split(3, 2, (1,)).of(wide))
    assert can_be_placed({"rollout": (2, 1.0), "reward": (4, 3.0)}, 16, 8)
    assert not can_be_placed({"rollout": (1, 1.0), "reward": (5, 3.0)}, 16, 8), (
        "two workers of three GPUs fill no node of eight"
    )


def test_a_plan_is_pasted_and_the_recipe_still_runs() -> None:
    recipe = sd35("reward.min=1", "reward.max=1")
    first = next(plans(recipe, [Split(3, 2, (3,))], Told(1.0, 1.0, 1.0), steady=1))
    pasted = first.overrides(recipe)
    assert pasted == ["policy.ranks=3", "rollout.size=2", "reward.size=3", "loop.staleness=0", "reward.max=3"]
    again = load_recipe(SD35, ["reward.min=1", "reward.max=1", *pasted])
    assert again == first.recipe
    assert first.gpus == 8


def figures(images_per_s: float) -> Figures:
    return Figures(images_per_s, 1.0, {"rollout": 1.0}, 0.0, 0, 1, 1, 1.0)


def test_of_plans_that_are_about_as_fast_the_one_with_the_least_staleness_is_best() -> None:
    recipe = sd35()
    found = [
        Plan(
            recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"staleness": staleness})}), figures(speed)
        )
        for staleness, speed in enumerate((50.0, 98.0, 100.0, 100.5))
    ]
    assert best_of(found).recipe.loop.staleness == 1
    assert best_of([found[0], replace(found[1], figures=figures(80.0)), found[3]]).recipe.loop.staleness == 3


def test_a_cluster_of_any_size_is_shared_out_by_the_work() -> None:
    recipe, source = sd35(), Told(draw=2.0, score=1.0, update=144.0)
    large = scaled(recipe, 400, source)
    assert own_split(large) == Split(100, 200, (100,))
    assert large.rollout.chunks_per_step == 4 * 200
    for busiest in (Told(1.0, 1.0, 1e6), Told(1e6, 1.0, 1.0), Told(1.0, 1e6, 1.0)):
        assert own_split(scaled(recipe, 3, busiest)) == Split(1, 1, (1,))


def test_too_few_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="--gpus 2: too few for one worker of each pool"):
        check_gpus(sd35(), 2, 8)
    check_gpus(sd35("reward.num_gpus=0.5", "rollout.num_gpus=0.5"), 2, 8)
    with pytest.raises(UserError, match="no worker of the recipe asks for a GPU"):
        check_gpus(load_recipe(Path("recipes/toy.toml")), 8, 8)


def test_faster_cards_give_shorter_times() -> None:
    h100, a100 = (Estimated(models(), name, GPUS[name], 8).times(sd35()) for name in ("h100", "a100"))
    assert a100.draw.seconds == pytest.approx(h100.draw.seconds * 989 / 312)
    assert a100.score["reward"].seconds == pytest.approx(h100.score["reward"].seconds * 989 / 312)
    assert a100.update.seconds > h100.update.seconds
    slow = replace(GPUS["h100"], tb_per_s=1e-3)  # then it is the reading of weights that counts
    reading = Estimated(models(), "slow", slow, 8).times(sd35())
    assert reading.draw.seconds == pytest.approx(14 * 2 * models().image.transformer.numel / 1e9)


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("sd35m_8gpu", 8),
        ("flux_dev_8gpu", 8),
        ("z_image_qwen3vl32b_64gpu", 64),
        ("qwen_image_2512_qwen3vl32b_64gpu", 64),
    ],
)
def test_a_recipe_has_nine_tenths_of_the_speed_of_the_best_split_or_more(name, gpus):
    recipe = load_recipe(Path(f"recipes/{name}.toml"))
    models = models_to_estimate(recipe.policy, recipe.rewards)
    own = own_split(recipe)
    assert own.ranks + own.rollouts + sum(own.rewards) == gpus
    assert Fits(models, gpus, 8, round(80 * GIB))(recipe)
    assert list(split_warnings(recipe, models, 80)) == []


def test_a_recipe_that_is_split_badly_is_told_the_best_split() -> None:
    recipe = sd35("policy.ranks=2", "rollout.size=2", "reward.size=4", "reward.max=4")
    (warning,) = split_warnings(recipe, models(), 80)
    assert "policy.ranks = 2, rollout.size = 2, reward.size = 4: by the planner's estimate" in warning
    assert "as fast as 4, 3 and 1: see python -m pipelines.plan RECIPE --gpus 8" in warning


SEVERAL = """
[[reward]]
name = "echo"
model = "Qwen/Qwen3-VL-8B-Instruct"
num_gpus = 1.0
[[reward]]
name = "yes"
model = "Qwen/Qwen3-VL-2B-Instruct"
num_gpus = 0.5
[[reward]]
name = "small"
type = "jpeg_size"
num_cpus = 1.0
size = 2
"""


def several(tmp_path: Path, *overrides: str) -> Recipe:
    """SD35's recipe with three rewards, one of them without a GPU."""
    tables = SD35.read_text().split("[reward]\n")
    path = tmp_path / "several.toml"
    path.write_text(tables[0] + "[" + tables[1].split("\n[", 1)[1] + SEVERAL)
    return load_recipe(path, overrides)


def every_way(shares: list[float], gpus: float) -> Iterator[tuple[int, ...]]:
    """All sizes of pools that hold no more GPUs."""
    ranges = [range(1, int(gpus / share + 1e-9) + 1) for share in shares]
    return (sizes for sizes in product(*ranges) if sum(map(mul, shares, sizes)) <= gpus + 1e-9)


def test_no_way_to_share_gpus_among_rewards_has_a_faster_slowest_pool() -> None:
    rng = random.Random(0)
    for _ in range(200):
        shares = [rng.choice([0.1, 0.25, 0.5, 1.0, 2.0]) for _ in range(rng.randint(1, 3))]
        seconds = [rng.choice([0.0, 1.0, 1.0, rng.uniform(0.1, 9.0)]) for _ in shares]
        gpus = sum(shares) + rng.choice([0.0, 0.3, 1.0, 2.5, 4.0])
        *_, grown = growing(seconds, shares, [1] * len(shares), 10**6, gpus)
        fastest = min(max(map(truediv, seconds, sizes)) for sizes in every_way(shares, gpus))
        assert grown in set(every_way(shares, gpus))
        assert max(map(truediv, seconds, grown)) == pytest.approx(fastest)


def test_the_best_split_of_several_rewards_is_that_of_a_search_of_all(tmp_path: Path) -> None:
    recipe = several(tmp_path)
    chunks, pools = recipe.rollout.chunks_per_step, list(recipe.rewards)
    rng = random.Random(1)
    for _ in range(5):
        score = {pool: Duration(rng.uniform(0.1, 3.0)) for pool in pools}
        updates = rng.uniform(50.0, 200.0)

        def times(ranks: int) -> Times:
            return Times(Duration(1.0), score, Duration(updates / ranks), 1)  # noqa: B023

        every = (
            Split(ranks, rollouts, (*sizes, 2))
            for ranks in range(1, 6)
            for rollouts in range(1, 7 - ranks)
            for sizes in every_way([1.0, 0.5], 8 - ranks - rollouts)
        )
        best = min(bound(recipe.rollout, split, times(split.ranks)) for split in every)
        found = [bound(recipe.rollout, split, times(split.ranks)) for split in splits(recipe, 8, 8, times(1))]
        assert min(found) == pytest.approx(best)
    assert all(split.rewards[2] == 2 for split in splits(recipe, 8, 8, times(1))), "it asks for no GPU"
    assert max(max(split.rewards) for split in splits(recipe, 4096, 8, times(1))) <= chunks


def test_the_bound_takes_rewards_as_side_by_side(tmp_path: Path) -> None:
    recipe = several(tmp_path)
    score = {"reward.echo": Duration(1.0), "reward.yes": Duration(3.0), "reward.small": Duration(0.1)}
    times = Times(Duration(1.0), score, Duration(90.0), 1)
    assert bound(recipe.rollout, Split(2, 4, (1, 2, 2)), times) == (216.0, 36.0 + 216.0 + 90.0)


def test_a_plan_of_several_rewards_is_pasted_by_their_names(tmp_path: Path) -> None:
    recipe = several(tmp_path, "reward.yes.min=1", "reward.yes.max=1")
    split = Split(2, 3, (2, 2, 2))
    pasted = Plan(split.of(recipe), figures(1.0)).overrides(recipe)
    assert pasted[2:5] == ["reward.echo.size=2", "reward.yes.size=2", "reward.small.size=2"]
    assert pasted[-1] == "reward.yes.max=2"
    again = several(tmp_path, "reward.yes.min=1", "reward.yes.max=1", *pasted)
    assert (again, own_split(again)) == (split.of(recipe), split)


def test_many_workers_are_shared_out_among_several_rewards(tmp_path: Path) -> None:
    recipe = several(tmp_path)
    score = {"reward.echo": Duration(1.0), "reward.yes": Duration(3.0), "reward.small": Duration(0.0)}

    class Fixed:
        note = ""

        def times(self, recipe: Recipe) -> Times:
            return Times(Duration(2.0), score, Duration(144.0 / recipe.policy.ranks), 1)

    large = own_split(scaled(recipe, 401, Fixed()))
    assert large.ranks + large.rollouts + sum(large.rewards) == 401
    assert large.rewards[1] == pytest.approx(3 * large.rewards[0], abs=2)
    assert large.rewards[2] == 1


def test_what_a_split_keeps_if_a_time_is_off_is_the_least_of_all_ways() -> None:
    recipe, even, odd = sd35(), Split(1, 4, (4,)), Split(1, 6, (2,))
    source = Told(1.0, 1.0, 0.001)
    assert least_share(recipe, even, [even, odd], source) == pytest.approx(1.0), (
        "at 0.75 and 1.25 it is still the faster one"
    )
    assert least_share(recipe, odd, [even, odd], source) == pytest.approx(0.5)
    assert least_share(recipe, Split(1, 5, (3,)), [even, Split(1, 5, (3,))], source) == pytest.approx(3 / 4)
    assert least_share(recipe, Split(1, 3, (5,)), [even, Split(1, 3, (5,))], source) == pytest.approx(3 / 4)
