"""Which checkpoints a run makes when writing is slow, and which it removes. In virtual time, with real files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import PoolSpec
from pipelines.engine.checkpoint import newest, place_of
from tests.support.virtual_world import TimedStorage, virtual_driver, virtual_pools, virtual_recipe

STEPS = 12

Train = Callable[..., list[int]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains in virtual time, from the newest checkpoint if there is one; returns the steps of the checkpoints made."""

    def train(write_s: float, **loop) -> list[int]:
        recipe = virtual_recipe(loop={"steps": STEPS, "staleness": 1, **loop})
        executor = VirtualExecutor(virtual_pools(PoolSpec("storage", TimedStorage, {"seconds": write_s})))
        driver = virtual_driver(recipe, executor, tmp_path)
        folder = driver.folder
        earlier = len(folder.read_events())
        assert driver.run(newest(root_of(tmp_path))[0]) == "done"
        return [line.fields["step"] for line in folder.read_events()[earlier:] if line.kind == "checkpoint"]

    return train


def root_of(tmp_path: Path) -> str:
    return str(tmp_path / "checkpoints")


def kept(tmp_path: Path) -> list[str]:
    return sorted(place.name for place in (tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("write_s", "made"),
    [
        (0.5, [4, 8, 12]),
        (5.5, [4, 10, 12]),  # 8 falls due in the writing of 4, which ends in step 10; the last one in that of 10
        (100.0, [4, 12]),
    ],
)
def test_a_checkpoint_that_falls_due_while_another_is_written_is_made_afterwards(train: Train, write_s, made) -> None:
    assert train(write_s, checkpoint_every=4) == made


@pytest.mark.parametrize("checkpoint_every", [1, 5])
@pytest.mark.parametrize("write_s", [0.0, 0.25, 1.5, 2.5, 3.5, 6.75, 11.5])
def test_the_last_step_always_has_a_checkpoint(train: Train, tmp_path: Path, write_s, checkpoint_every) -> None:
    made = train(write_s, checkpoint_every=checkpoint_every)
    found, problems = newest(root_of(tmp_path))
    assert made[-1] == found.manifest.step == STEPS
    assert not problems
    assert all(before < after for before, after in pairwise(made)), "each is made once"


def test_broken_older_checkpoints_are_removed_and_do_not_count_as_kept(train: Train, tmp_path: Path) -> None:
    train(0.0, checkpoint_every=1, keep_checkpoints=9)
    assert kept(tmp_path) == [f"step-{step:06d}" for step in range(4, 13)]
    for step, name in [(6, "manifest.json"), (9, "manifest.json"), (11, "records/metrics.jsonl")]:
        Path(place_of(root_of(tmp_path), step), name).unlink()
    for step in (10, 12):
        shutil.rmtree(place_of(root_of(tmp_path), step))
    assert train(0.0, checkpoint_every=2, keep_checkpoints=5) == [10, 12]
    assert kept(tmp_path) == [f"step-{step:06d}" for step in (5, 7, 8, 10, 12)]


def test_nothing_beside_checkpoints_is_removed(train: Train, tmp_path: Path) -> None:
    other = tmp_path / "checkpoints" / "step-3-by-hand"
    other.mkdir(parents=True)
    train(0.0, checkpoint_every=4, keep_checkpoints=1)
    assert kept(tmp_path) == ["step-000012", other.name]
