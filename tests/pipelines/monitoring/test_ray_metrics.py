"""A run on Ray as Prometheus sees it: every metric of the table, with the values of the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.monitoring.metric_table import TABLE
from pipelines.run_folder.folder import RunFolder
from pipelines.train import main
from tests.support.metrics_port import Series, eventually

NAME = "watched [b] 'ä' \"x\" \\"  # as odd as a folder's name may be
SHOWN = NAME.replace("ä", "\\xe4")


@pytest.fixture(scope="module")
def folder(ray_cluster: str, tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the tiny world that has just ended."""
    out = tmp_path_factory.mktemp("runs") / NAME
    assert main([str(tiny_world), "--out", str(out)]) == 0
    return RunFolder(out)


@pytest.fixture(scope="module")
def published(folder: RunFolder) -> Series:
    """Its metrics once they hold the last word."""
    return eventually(SHOWN, lambda found: ("ray_echoray_ended_time", "") in found)


def test_every_metric_of_the_table_is_published(published: Series) -> None:
    names = {name.removeprefix("ray_").removesuffix("_total") for name, _ in published}
    assert {metric.name for metric in TABLE if not metric.only} <= names
    assert names <= {metric.name for metric in TABLE}


def test_the_values_are_those_of_the_run_folder(published: Series, folder: RunFolder) -> None:
    last, summary = folder.read_metrics()[-1], folder.read_summary()
    shown = {name.removeprefix("ray_echoray_"): value for (name, tag), value in published.items() if not tag}
    assert shown.items() >= {"step": 3, "steps_planned": 3, "policy_version": 3, "checkpoint_step": 3}.items()
    assert shown["images_total"] == summary["images"] == 24
    for name in ("reward_mean", "reward_std_in_group", "staleness_mean", "kl_reference", "adapter_effect"):
        assert shown[name] == pytest.approx(last.figure(name))
    assert shown["step_seconds"] == pytest.approx(last.seconds["step"])
    assert shown["ended_time"] >= shown["heartbeat_time"] > folder.read_state()["started"]
    assert (shown["bytes_in_flight"], shown["groups_in_flight"], shown["admission_paused"]) == (0, 0, 0)


def test_pools_stages_and_terms_are_told_apart(published: Series, folder: RunFolder) -> None:
    last = folder.read_metrics()[-1]
    pools = ("rollout", "reward", "policy")
    assert [published["ray_echoray_pool_ready", pool] for pool in pools] == [1, 1, 1]
    assert [published["ray_echoray_pool_busy_share", pool] for pool in pools] == pytest.approx(
        [last.busy[pool] for pool in pools]
    )
    assert {tag for name, tag in published if name == "ray_echoray_queue_seconds"} == {"score", "update"}
    assert published["ray_echoray_loss", "matching_error"] == pytest.approx(last.figure("matching_error"))
    after = folder.read_heldout()[-1]
    assert published["ray_echoray_heldout_reward", "1"] == pytest.approx(after.reward)
