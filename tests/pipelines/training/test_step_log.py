"""What a step's record says of the draws behind it."""

from __future__ import annotations

import numpy as np
import pytest

from actors.messages import DrawReport
from cluster.tasks import PoolStatus
from pipelines.engine.messages import Progress, Train, Unit
from pipelines.engine.tickets import Health
from pipelines.run_folder.records import StepRecord
from pipelines.training.step_log import StepLog

POOLS = {name: PoolStatus(wanted=1, ready=1, busy=0, restarts=0) for name in ("rollout", "reward", "policy")}
IDLE = Progress(0, {}, {}, False, 0, 0, False, 0)


@pytest.fixture
def log() -> StepLog:
    return StepLog(Health())


def draw(log: StepLog, stream: str, load_seconds: float) -> None:
    report = DrawReport("a circle", False, 0, "sha", 0, 1.0, load_seconds=load_seconds)
    log.drawn({Unit(stream, 1, 0, 0): report}, seconds=1.5)


def end(log: StepLog) -> StepRecord:
    log.step_begins(Train(1, (), ()), [], np.zeros((0, 2)), np.zeros((0, 2)))
    return log.step_ends("digest", {"seconds": 2.0}, export_seconds=0.25, pools=POOLS, progress=IDLE)


def test_the_longest_loading_of_an_adapter_counts_whatever_was_drawn(log: StepLog) -> None:
    draw(log, "train", 0.1)
    draw(log, "heldout", 0.4)
    draw(log, "train", 0.0)
    seconds = end(log).seconds
    assert (seconds["load"], seconds["export"]) == (0.4, 0.25)
    assert (seconds["draw"], seconds["update"]) == (4.5, 2.25)


def test_each_step_counts_anew(log: StepLog) -> None:
    draw(log, "train", 0.1)
    end(log)
    assert end(log).seconds["load"] == 0.0
