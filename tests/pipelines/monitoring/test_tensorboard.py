"""TensorBoard's events: what a run writes of itself, without double lines after a replay or a resume."""

from __future__ import annotations

import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.hparams import metadata

from pipelines.monitoring.tensorboard import TensorBoard
from pipelines.monitoring.watchers import Watchers
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord, StepRecord
from tests.support.plain_run import in_no_time

Points = dict[str, list[tuple[int, float]]]


def events_of(path: Path) -> list[Event]:
    """The events of a file: each with 12 bytes before it, of which 8 are its length, and 4 behind it."""
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def points_of(folder: Path) -> Points:
    """The scalars as TensorBoard shows them: a session that begins at a step takes back what others wrote from there on."""
    points: Points = defaultdict(list)
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in events_of(path):
            if event.session_log.status == SessionLog.START:
                points = defaultdict(
                    list, {tag: [point for point in line if point[0] < event.step] for tag, line in points.items()}
                )
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    points[value.tag].append((event.step, value.simple_value))
    return points


def pictures_of(folder: Path) -> dict[tuple[str, int], bytes]:
    files = (folder / "tensorboard").iterdir()
    return {
        (value.tag, event.step): value.image.encoded_image_string
        for path in files
        for event in events_of(path)
        for value in event.summary.value
        if value.HasField("image")
    }


def record(step: int) -> StepRecord:
    return StepRecord(step=step, reward_mean=step / 4, busy={"reward": 0.5}, loss=2.0, kl_reference=None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "[run]\n")


def test_a_run_is_drawn_by_step_and_its_grids_are_shown(plain_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert in_no_time([str(plain_world), "--out", str(out), "--executor", "local"]) == 0
    run, points = RunFolder(out), points_of(out)
    assert points["learning/reward_mean"] == [(one.step, pytest.approx(one.reward_mean)) for one in run.read_metrics()]
    after = [one for one in run.read_heldout() if one.guidance == 1]
    assert points["learning/heldout_reward/1"] == [(one.step, pytest.approx(one.reward)) for one in after]
    assert {"learning/loss/loss", "throughput/queue_seconds/score", "pools/pool_busy_share/policy"} <= set(points)
    assert pictures_of(out) == {
        ("samples", 0): run.grid_path("before-000000").read_bytes(),
        ("samples", 2): run.grid_path("during-000002").read_bytes(),
        ("samples", 3): run.grid_path("after-000003").read_bytes(),
    }


def test_the_recipe_is_told_to_the_hparams_tab(folder: RunFolder) -> None:
    with Watchers(TensorBoard(folder, 0, {"loop": {"steps": 3, "order": "strict"}, "policy": {"betas": [0.9, 0.99]}})):
        pass
    (path,) = (folder.path / "tensorboard").iterdir()
    sessions = {
        value.tag: value.metadata.plugin_data.content for event in events_of(path) for value in event.summary.value
    }
    assert set(sessions) == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    start = metadata.parse_session_start_info_plugin_data(sessions[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["loop.steps"].number_value == 3
    assert start.hparams["loop.order"].string_value == "strict"
    assert start.hparams["policy.betas"].string_value == "[0.9, 0.99]"


def test_what_was_not_measured_is_left_out(folder: RunFolder) -> None:
    with Watchers(TensorBoard(folder, 0, {})) as watchers:
        watchers.step(record(1))
    assert points_of(folder.path) == {
        "learning/reward_mean": [(1, 0.25)],
        "learning/loss/loss": [(1, 2.0)],
        "pools/pool_busy_share/reward": [(1, 0.5)],
    }


def test_a_replay_and_a_resume_draw_no_double_lines(folder: RunFolder) -> None:
    with Watchers(TensorBoard(folder, 0, {})) as watchers:
        for step in (1, 2, 3, 2, 3, 4):  # the policy was lost in step 4, and went back to a checkpoint
            watchers.step(record(step))
    assert [step for step, _ in points_of(folder.path)["learning/reward_mean"]] == [1, 2, 3, 4]
    with Watchers(TensorBoard(folder, 2, {})) as watchers:
        assert [step for step, _ in points_of(folder.path)["learning/reward_mean"]] == [1, 2]
        for step in (3, 4, 5):
            watchers.step(record(step))
    assert [step for step, _ in points_of(folder.path)["learning/reward_mean"]] == [1, 2, 3, 4, 5]


def test_a_grid_is_shown_once_it_is_drawn(folder: RunFolder) -> None:
    heldout = HeldoutRecord(tag="before", step=0, guidance=1.0, reward=0.5)
    with Watchers(TensorBoard(folder, 0, {})) as watchers:
        watchers.heldout(heldout)
        watchers.step(record(1))
        assert pictures_of(folder.path) == {}
        path = folder.save_grid("before-000000", [("a red circle", np.zeros((1, 8, 8, 3), np.uint8))])
    assert pictures_of(folder.path) == {("samples", 0): path.read_bytes()}


def test_the_recipe_can_do_without(plain_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--executor", "local", "--set", "monitor.tensorboard=false", "--set", "loop.steps=1"]
    assert in_no_time([str(plain_world), "--out", str(out), *options]) == 0
    assert not (out / "tensorboard").exists()


def test_events_that_cannot_be_written_do_not_end_the_run(
    plain_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder of events should be."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "tensorboard").write_text("")
    assert in_no_time([str(plain_world), "--out", str(out), "--executor", "local", "--set", "loop.steps=2"]) == 0
    assert "TensorBoard no longer watches the run: FileExistsError" in capsys.readouterr().out
    assert RunFolder(out).read_summary()["steps"] == 2
