"""What a plan reads from a run's folder, how it carries over to other sizes, and where it refuses to."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from cluster.executors.virtual import VirtualExecutor
from pipelines.planning.measured import Measured, read_run
from pipelines.planning.run import Meter, drive, planned, pools, simulate
from pipelines.planning.times import Duration, Times, exchange_seconds
from pipelines.preflight.memory.models import Models, models_to_estimate
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import dump_recipe, load_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import Spread, StepRecord
from tests.support.flaky_s3 import FlakyS3


def record(step: int, *, heldout: int = 0, draw: float = 0.1) -> StepRecord:
    """A step's line, as far as a plan reads it."""
    trained = {
        "draw": Spread(tasks=12, mean=draw, std=draw / 10),
        "score": Spread(tasks=12, mean=0.02, std=0.0),
    }
    seconds = {"step": 12 * draw + 100.0 * heldout, "export": 0.01, "update": 0.5}
    tasks = {"draw": 12 + heldout, "score": 12 + heldout, "update": 1}
    return StepRecord(step=step, images=96, seconds=seconds, tasks=tasks, train_tasks=trained)


def toy(*overrides: str) -> Recipe:
    """The miniature world's, with one group a draw."""
    return load_recipe(Path("recipes/toy.toml"), ["rollout.groups_per_task=1", *overrides])


def run_folder(path: Path, records: list[StepRecord], *overrides: str) -> str:
    folder = RunFolder.create(path / "run", dump_recipe(toy(*overrides)))
    for line in records:
        folder.metric(line)
    return str(folder.path)


def models_of(recipe: Recipe) -> Models:
    return models_to_estimate(recipe.policy, recipe.rewards)


def test_only_steady_steps_without_evaluations_count(tmp_path: Path) -> None:
    filling = [record(step, draw=9.0) for step in (1, 2, 3)]  # staleness 1
    steady = [record(step) for step in range(5, 11)]
    run = read_run(run_folder(tmp_path, [*filling, record(4, heldout=5), *steady]))
    assert run.steps == 6
    assert run.images_per_s == pytest.approx(96 / 1.2)
    assert (run.draw.seconds, run.draw.jitter) == pytest.approx((0.1, 0.1))
    assert (run.score["reward"].seconds, run.score["reward"].jitter) == pytest.approx((0.02, 0.0))
    assert (run.update.seconds, run.update.jitter) == pytest.approx((0.5, 0.0))


def test_what_changes_from_step_to_step_is_no_jitter(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path, [record(step, draw=0.1 * (1 + step % 2)) for step in range(13)]))
    within = (0.01**2 / 2 + 0.02**2 / 2) ** 0.5
    assert run.draw.jitter == pytest.approx(within / run.draw.seconds)


def test_times_carry_over_in_proportion(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path, [record(step) for step in range(12)]))
    measured = Measured(run, models_of(run.recipe), per_node=8)
    same = measured.times(run.recipe)
    assert (same.draw, same.score, same.update) == (run.draw, run.score, run.update)
    half = measured.times(toy("rollout.chunk=4", f"rollout.steps={2 * run.recipe.rollout.steps}"))
    assert half.draw.seconds == pytest.approx(0.1)  # half the images, twice the steps
    assert half.score["reward"].seconds == pytest.approx(0.01)
    assert half.chunk_bytes == same.chunk_bytes / 2
    more = measured.times(toy("objective.timesteps_per_sample=4"))
    assert more.update.seconds == pytest.approx(1.0)


def test_ranks_share_the_update_and_pay_for_the_exchange(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path, [record(step) for step in range(12)], "policy.zero_stage=2"))
    models = models_of(run.recipe)
    four = toy("policy.zero_stage=2", "policy.ranks=4")
    exchange = exchange_seconds(four.rollout, four.policy, models, per_node=8)
    assert exchange > 0
    assert Measured(run, models, per_node=8).times(four).update.seconds == pytest.approx(0.5 / 4 + exchange)


def test_the_run_itself_comes_out_as_it_was(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path, [record(step) for step in range(12)]))
    predicted = simulate(run.recipe, Measured(run, models_of(run.recipe), 8).times(run.recipe), driver_s=0.0, steady=40)
    assert predicted.images_per_s == pytest.approx(run.images_per_s, rel=0.02)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.height=64", "rollout.height = 32, but the recipe has 64"),
        ("objective.type=nft", "objective.type = 'awm', but the recipe has 'nft'"),
        ("reward.num_gpus=0.5", "reward.num_gpus = 0.0, but the recipe has 0.5"),
    ],
)
def test_a_run_that_says_nothing_of_the_recipe_is_refused(tmp_path: Path, override: str, said: str) -> None:
    run = read_run(run_folder(tmp_path, [record(step) for step in range(12)]))
    other = load_recipe(Path("recipes/toy_nft.toml")) if "nft" in override else toy(override)
    with pytest.raises(UserError, match=said):
        Measured(run, models_of(run.recipe), 8).times(other)


def test_folders_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies there"):
        read_run(str(tmp_path / "nowhere"))
    evaluated = [record(step, heldout=int(step != 7)) for step in range(12)]
    old = [record(step).model_copy(update={"train_tasks": {}}) for step in range(12)]
    for name, lines, found in (
        ("empty", [], "0 of its 0"),
        ("evaluated", evaluated, "1 of its 12"),
        ("old", old, "0 of its 12"),
    ):
        folder = run_folder(tmp_path / name, lines)
        with pytest.raises(UserError, match=f"{found} steps can be measured, at least 5 are needed"):
            read_run(folder)


def test_a_run_at_a_url_says_the_same(tmp_path: Path, s3: str, flaky_s3: FlakyS3) -> None:
    here = run_folder(tmp_path, [record(step) for step in range(12)])
    url = f"{s3}/measured"
    fsspec.filesystem("s3").put(here, url, recursive=True)
    assert read_run(url) == read_run(here)
    assert read_run(f"{url}/") == read_run(here)
    with pytest.raises(UserError, match="s3://runs/nowhere: no run lies there"):
        read_run(f"{s3}/nowhere")
    with pytest.raises(UserError, match="gs3://bucket/run"):
        read_run("gs3://bucket/run")
    flaky_s3.fail(status=403)
    with pytest.raises(UserError, match="access is denied"):
        read_run(url)


def test_what_a_driver_writes_is_what_is_read(tmp_path: Path) -> None:
    """Three steps fill the pipeline, and in the last one nothing is left to draw."""
    sizes = ("rollout.size=2", "loop.steps=12")
    recipe = toy(*sizes)
    told = Times(Duration(0.5, 0.2), {"reward": Duration(0.25)}, Duration(3.0), 1000)
    written = drive(planned(recipe, 12), Meter(VirtualExecutor(list(pools(recipe, told))), step_bytes=0))
    run = read_run(run_folder(tmp_path, written, *sizes))
    assert run.steps == 12 - 3 - 1
    assert (run.draw.seconds, run.draw.jitter) == pytest.approx((0.5, 0.2), rel=0.15)
    assert (run.score, run.update) == (told.score, told.update)


def test_each_of_several_rewards_is_measured_by_its_pool(tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/toy_two_rewards.toml"), ["loop.steps=12", "rollout.groups_per_task=1"])
    score = {"reward.echo": Duration(0.25), "reward.small": Duration(0.125)}
    told = Times(Duration(0.5), score, Duration(3.0), 1000)
    written = drive(planned(recipe, 12), Meter(VirtualExecutor(list(pools(recipe, told))), step_bytes=0))
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    for line in written:
        folder.metric(line)
    run = read_run(str(folder.path))
    assert run.score == score
    assert Measured(run, models_to_estimate(recipe.policy, recipe.rewards), 8).times(recipe).score == score
    with pytest.raises(UserError, match=r"with the pools reward.echo, reward.small, but the recipe has reward:"):
        Measured(run, models_of(toy()), 8).times(toy())


def test_a_run_that_does_not_tell_its_rewards_apart_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/toy_two_rewards.toml"), ["loop.steps=100"])
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    for step in range(12):
        folder.metric(record(step))
    with pytest.raises(UserError, match=r"does not say how long reward.echo took to score"):
        read_run(str(folder.path))
