"""The main job on Ray with real models, once: its result is the local run's, and Prometheus sees every metric of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.monitoring.metric_table import TABLE
from pipelines.run_folder.folder import RunFolder
from pipelines.train import main
from tests.support.metrics_port import Series, eventually
from tests.support.runs import overrides, train

NAME = "watched [b] 'ä' \"x\" \\"  # as odd as a folder's name may be
SHOWN = NAME.replace("ä", "\\xe4")
STEPS = overrides(loop__staleness=1, loop__steps=5)
POOLS = {"rollout": 2, "reward": 2, "policy": 1}


@pytest.fixture(scope="module")
def folder(ray_cluster: str, tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the tiny world that has just ended, with two workers in each pool."""
    out = tmp_path_factory.mktemp("runs") / NAME
    assert main([str(tiny_world), "--out", str(out), *STEPS, *overrides(rollout__size=2, reward__size=2)]) == 0
    return RunFolder(out)


@pytest.fixture(scope="module")
def published(folder: RunFolder) -> Series:
    """Its metrics once they hold the last word."""
    return eventually(SHOWN, lambda found: ("ray_echoray_ended_time", "") in found)


def test_the_digest_is_that_of_the_local_run_whatever_the_workers(
    folder: RunFolder, tiny_world: Path, tmp_path: Path
) -> None:
    """With staleness 1. The plain world has one worker of each pool without it, in test_train.py, and both in tests/faults."""
    on_ray, here = folder.read_summary(), train(tiny_world, tmp_path / "here", *STEPS)
    assert (on_ray["digest"], on_ray["heldout"]["after"]) == (here["digest"], here["heldout"]["after"])


def test_every_metric_of_the_table_is_published(published: Series) -> None:
    names = {name.removeprefix("ray_").removesuffix("_total") for name, _ in published}
    assert {metric.name for metric in TABLE if not metric.only} <= names
    assert names <= {metric.name for metric in TABLE}


def test_the_values_are_those_of_the_run_folder(published: Series, folder: RunFolder) -> None:
    metrics, summary = folder.read_metrics(), folder.read_summary()
    shown = {name.removeprefix("ray_echoray_"): value for (name, tag), value in published.items() if not tag}
    assert shown.items() >= {"step": 5, "steps_planned": 5, "policy_version": 5, "checkpoint_step": 5}.items()
    assert shown["images_total"] == summary["images"] == 40
    for name in ("reward_mean", "reward_std_in_group", "staleness_mean", "kl_reference", "adapter_effect"):
        known = [value for record in metrics if (value := record.figure(name)) is not None]
        assert shown[name] == pytest.approx(known[-1])
    assert shown["step_seconds"] == pytest.approx(metrics[-1].seconds["step"])
    assert shown["ended_time"] >= shown["heartbeat_time"] > folder.read_state()["started"]
    assert (shown["bytes_in_flight"], shown["groups_in_flight"], shown["admission_paused"]) == (0, 0, 0)


def test_pools_stages_and_terms_are_told_apart(published: Series, folder: RunFolder) -> None:
    last = folder.read_metrics()[-1]
    assert {pool: published["ray_echoray_pool_ready", pool] for pool in POOLS} == POOLS
    assert [published["ray_echoray_pool_busy_share", pool] for pool in POOLS] == pytest.approx(
        [last.busy[pool] for pool in POOLS]
    )
    assert {tag for name, tag in published if name == "ray_echoray_queue_seconds"} == {"score", "update"}
    assert published["ray_echoray_loss", "matching_error"] == pytest.approx(last.figure("matching_error"))
    after = folder.read_heldout()[-1]
    assert published["ray_echoray_heldout_reward", "1"] == pytest.approx(after.reward)
