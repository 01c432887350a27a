"""Training images that are kept: what was drawn, scored and trained on, the same after a resume, and never at the cost of the run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.messages import DrawReport, Prompt, Scores
from cluster.executors.virtual import VirtualExecutor
from cluster.storage import files
from cluster.tasks import Cause, PoolSpec, Task
from pipelines.engine.messages import GroupKey, Unit
from pipelines.engine.tickets import Tickets
from pipelines.recipe.load import dump_recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.training.groups import Chunk, Group
from pipelines.training.shards import ShardWriter
from tests.support.outbox import Outbox, comes_back
from tests.support.plain_run import in_no_time, pools_in_no_time
from tests.support.plain_world import PlainRollout
from tests.support.runs import main_with
from tests.support.virtual_world import TimedPacker, TimedStorage, virtual_driver, virtual_pools, virtual_recipe

STEPS, GROUPS, K = 4, 2, 4


def overrides(**values: object) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def train(recipe: Path, out: Path, *options: str, main: Callable[..., int] = in_no_time) -> str:
    """Runs in this process; returns the digest."""
    options = ("--executor", "local", *overrides(loop__steps=STEPS, loop__staleness=1), *options)
    assert main([str(recipe), "--out", str(out), *options]) == 0
    return digest_of(out)


def digest_of(out: Path) -> str:
    return json.loads((out / "summary.json").read_text())["digest"]


def events_of(out: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == kind]


def shards(out: Path) -> dict[int, bytes]:
    return {int(path.stem.removeprefix("step-")): path.read_bytes() for path in (out / "samples").glob("*.parquet")}


class RecordingRollout(PlainRollout):
    """Remembers what it drew for training, by seed."""

    drawn: dict[int, np.ndarray]

    def draw(self, request, adapter):
        report, images_KHWC, latents = super().draw(request, adapter)
        if request.purpose == "train":
            self.drawn.update(zip(request.parts[0].noise_seeds, images_KHWC, strict=True))
        return report, images_KHWC, latents


@pytest.fixture(scope="module")
def whole(plain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, np.ndarray]]:
    """The folder of a run that keeps all images, and what was drawn in it."""
    out = tmp_path_factory.mktemp("samples") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordingRollout, "drawn", {}, raising=False)
        train(
            plain_world,
            out,
            *overrides(samples__every=1),
            main=main_with("rollout", RecordingRollout, pools_in_no_time),
        )
        return out, RecordingRollout.drawn


def test_every_image_is_there_as_it_was_drawn_scored_and_trained_on(whole) -> None:
    out, drawn = whole
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sorted(shards(out)) == [record["step"] for record in metrics] == list(range(1, STEPS + 1))
    for record in metrics:
        rows = pq.read_table(out / "samples" / f"step-{record['step']:06d}.parquet").to_pylist()
        assert [(row["group"], row["sample"]) for row in rows] == [
            (group, k) for group in range(GROUPS) for k in range(K)
        ]
        assert {row["step"] for row in rows} == {record["step"]}
        assert {row["policy_version"] for row in rows} == {max(0, record["step"] - 2)}
        assert np.mean([row["reward"] for row in rows]) == pytest.approx(record["reward_mean"])
        assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-5)
        assert all(row["caption"].endswith(row["category"]) for row in rows)
        for row in rows:
            picture = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert np.array_equal(np.asarray(picture), drawn[row["noise_seed"]])


def test_nothing_of_what_is_trained_depends_on_it(whole, plain_world: Path, tmp_path: Path) -> None:
    assert train(plain_world, tmp_path / "none") == digest_of(whole[0])
    assert shards(tmp_path / "none") == {}


def test_only_what_is_asked_for_is_kept(whole, plain_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "some"
    assert train(plain_world, out, *overrides(samples__every=2, samples__groups=1)) == digest_of(whole[0])
    assert sorted(shards(out)) == [2, 4]
    few = pq.read_table(out / "samples" / "step-000002.parquet")
    assert few.equals(pq.read_table(whole[0] / "samples" / "step-000002.parquet").slice(0, K))


def test_a_resumed_run_writes_the_same_bytes(whole, plain_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(whole[0], out)
    shutil.rmtree(out / "checkpoints" / "step-000004")
    for step in (3, 4):
        (out / "samples" / f"step-{step:06d}.parquet").unlink()
    train(plain_world, out, *overrides(samples__every=1), "--resume")
    assert [event["step"] for event in events_of(out, "resumed")] == [2]
    assert shards(out) == shards(whole[0])


def test_workers_of_their_own_write_the_same_bytes(ray_cluster: str, plain_world: Path, tmp_path: Path) -> None:
    here, out = tmp_path / "here", tmp_path / "ray"
    options = overrides(loop__steps=STEPS, loop__staleness=1, samples__every=1, rollout__size=2)
    assert in_no_time([str(plain_world), "--out", str(here), "--executor", "local", *options]) == 0
    assert in_no_time([str(plain_world), "--out", str(out), *options]) == 0
    assert digest_of(out) == digest_of(here)
    assert sorted(shards(here)) == list(range(1, STEPS + 1))
    assert shards(out) == shards(here)


def test_what_cannot_be_kept_is_said_and_the_run_goes_on(whole, plain_world: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "blocked"
    (out / "samples" / "step-000002.parquet").mkdir(parents=True)
    assert train(plain_world, out, *overrides(samples__every=1)) == digest_of(whole[0])
    (failed,) = events_of(out, "samples_failed")
    assert failed["step"] == 2
    assert "Is a directory" in failed["message"]
    assert "the images of step 2 could not be kept" in capsys.readouterr().out
    assert [event["step"] for event in events_of(out, "samples")] == [1, 3, 4]
    assert [path.name for path in (out / "samples").glob("*.tmp")] == []


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def keeper(outbox: Outbox, tmp_path: Path) -> ShardWriter:
    """Keeps every step's images; its tasks go to the outbox."""
    recipe = virtual_recipe(loop={"steps": 9, "lost_retries": 2}, samples={"every": 1})
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    return ShardWriter(recipe, "s3://bucket/run", folder, Tickets(outbox, recipe.cluster), lambda text: None)


def trained(keeper: ShardWriter, step: int) -> None:
    """A step with one group, of which `images` is the handle."""
    report = DrawReport("a cut caption", True, 0, "sha", 0, 0.0)
    group = Group(GroupKey("train", step, 0), Prompt("p", "a cut caption that was longer"), 0)
    group.chunks[0] = Chunk(report, "images", "latents", {"reward": Scores((1.0, 2.0))})
    keeper.write(step, [group], np.array([[1.0, 2.0]]), np.array([[-0.5, 0.5]]))


def called(task: Task) -> tuple:
    return task.pool, task.method, task.args


def test_lost_workers_are_tried_again_with_what_is_there(keeper: ShardWriter, outbox: Outbox) -> None:
    trained(keeper, 1)
    comes_back(keeper.tickets, outbox.sent[0], cause="worker_lost")
    assert called(outbox.sent[0]) == called(outbox.sent[1])
    pool, method, (chunks, *handles) = called(outbox.sent[1])
    assert (pool, method, handles) == ("samples", "pack", ["images"])
    assert chunks[0].caption == "a cut caption"
    assert chunks[0].advantages_K == (-0.5, 0.5)
    comes_back(keeper.tickets, outbox.sent[1], {"images": 2, "seconds": 0.1}, ("shard",))
    comes_back(keeper.tickets, outbox.sent[2], cause="deadline")
    assert called(outbox.sent[2]) == called(outbox.sent[3])
    assert called(outbox.sent[3]) == (
        "storage", "write_file", ("s3://bucket/run/samples/step-000001.parquet", "shard")
    )  # fmt: skip
    comes_back(keeper.tickets, outbox.sent[3], {"bytes": 10, "seconds": 0.1})
    assert not keeper.pending
    assert events_of(keeper.folder.path, "samples")[0]["images"] == 2


@pytest.mark.parametrize("causes", [["object_lost"], ["raised"], ["worker_lost"] * 3])
def test_what_is_lost_for_good_is_given_up(keeper: ShardWriter, outbox: Outbox, causes: list[Cause]) -> None:
    trained(keeper, 1)
    for cause in causes:
        comes_back(keeper.tickets, outbox.sent[-1], cause=cause)
    assert len(outbox.sent) == len(causes)
    assert not keeper.pending
    assert events_of(keeper.folder.path, "samples_failed")[0]["cause"] == causes[-1]


def test_images_of_two_steps_hold_up_the_loop_and_of_one_a_checkpoint(keeper: ShardWriter) -> None:
    assert keeper.wants(Unit("train", 3, 0, 0))
    assert not keeper.wants(Unit("heldout", 3, 0, 0))
    assert not keeper.hold_up(checkpoint_overdue=True)
    trained(keeper, 1)
    assert not keeper.hold_up(checkpoint_overdue=False)
    assert keeper.hold_up(checkpoint_overdue=True)
    trained(keeper, 1)  # replayed: it is under way already
    assert not keeper.hold_up(checkpoint_overdue=False)
    trained(keeper, 2)
    assert keeper.hold_up(checkpoint_overdue=False)


@pytest.mark.parametrize("pack_s", [0.1, 2.5])
def test_no_checkpoint_counts_a_step_whose_images_are_not_there(s3: str, tmp_path: Path, pack_s: float) -> None:
    """In virtual time, with steps of 1 s and shards on S3: also when packing cannot keep up."""
    recipe = virtual_recipe(loop={"steps": 8, "checkpoint_every": 3}, samples={"every": 1})
    storage, packer = (
        PoolSpec("storage", TimedStorage, {"seconds": 0.0}),
        PoolSpec("samples", TimedPacker, {"seconds": pack_s}),
    )
    place = f"{s3}/{tmp_path.name}"
    executor = VirtualExecutor(virtual_pools(storage, packer))
    driver = virtual_driver(recipe, executor, tmp_path, samples_place=place)
    assert driver.run(None) == "done"
    written: set[int] = set()
    checkpoints = []
    for event in driver.folder.read_events():
        if event.kind == "samples":
            written.add(event.fields["step"])
        elif event.kind == "checkpoint":
            checkpoints.append(event.fields["step"])
            assert written >= set(range(1, event.fields["step"] + 1))
    assert written == set(range(1, 9))
    assert all(files.read(f"{place}/samples/step-{step:06d}.parquet") == b"shard" for step in written)
    assert checkpoints == [3, 6, 8]
