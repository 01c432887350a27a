"""A program that trains nothing, on the driver as it is: its rows pass two stages, and it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import Failure, Outcome, PoolSpec
from pipelines.engine.driver import Driver
from pipelines.engine.messages import Ask, LoopPlan, Notice, Progress, Quarantined, Settled, Sweeps, Unit
from pipelines.engine.steering import Control
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Call, Refused, Updates, Work
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.stages import Stage
from pipelines.recipe.tables import Autoscale, Cluster
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.roster import Roster

ROWS = 20
BAD = 7  # the row of which nothing can be made
JUDGES = ("length", "vowels")


@dataclass
class Reader(Stage):
    """Makes a text of a row."""

    def read(self, row: int) -> tuple[int, str]:
        self.work(row)
        return row, f"row {row}"


@dataclass
class Judge(Stage):
    """Finds a figure of a text."""

    def judge(self, text: str) -> float:
        self.work(text)
        return float("nan") if text == f"row {BAD}" else len(text)


class MapWork(Work):
    """Each row is read, then judged by two pools side by side, and written down; what is written need not be done again."""

    def __init__(self, file: Path) -> None:
        self.updates, self.elastic = Updates(), {}
        self.file = file
        done = {json.loads(line)["row"] for line in file.read_text().splitlines()} if file.exists() else set()
        self.rows = [row for row in range(ROWS) if row not in done]
        self.texts: dict[Unit, Any] = {}
        self.figures: dict[int, dict[str, float]] = {}

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        stages = (("reader",), JUDGES)
        return LoopPlan({"map": Sweeps(stages, {0: (1,) * len(self.rows)})}, max_groups_in_flight=4)

    def call(self, ask: Ask) -> Call:
        if ask.pool == "reader":
            return Call(Reader.read, (self.rows[ask.unit.group],), returns=2)
        return Call(Judge.judge, (self.texts[ask.unit],))

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        if ask.pool == "reader":
            [self.texts[ask.unit]] = outcome.payloads
        elif outcome.value != outcome.value:
            return {ask.unit: Refused(Failure("raised", "the figure is not finite"), retry=False)}
        else:
            self.figures.setdefault(ask.unit.group, {})[ask.pool] = outcome.value
        return {ask.unit: 0}

    def heed(self, notice: Notice) -> None:
        match notice:
            case Settled(key):
                self.write(key.group, self.figures.pop(key.group))
            case Quarantined(key, _, message):
                self.write(key.group, {"failed": message})

    def write(self, group: int, what: Mapping[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"row": self.rows[group], **what}) + "\n")

    def status(self, progress: Progress) -> dict[str, Any]:
        return {"rows": len(self.rows)}


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., Driver[MapWork]]:
    """A driver of such a run with so many readers and judges, which is told to stop after so many turns."""

    def driver(workers: int = 1, turns: int | None = None) -> Driver[MapWork]:
        specs = [PoolSpec("reader", Reader, {"seconds": 1.0, "jitter": 0.5}, workers)]
        specs += [PoolSpec(name, Judge, {"seconds": 2.0, "jitter": 0.5}, workers) for name in JUDGES]
        tickets, folder = Tickets(VirtualExecutor(specs), Cluster()), RunFolder(tmp_path)
        work = MapWork(tmp_path / f"{workers}.jsonl")
        control = Control("map", work, tickets, folder, Watchers(), Roster(exact=True), Autoscale())
        left = iter(range(turns)) if turns else None

        def check() -> None:
            if left and next(left, None) is None:
                control.stopping = True

        return Driver(work, tickets, folder, control, str(tmp_path / "checkpoints"), check)

    return driver


def rows_of(driver: Driver[MapWork]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in driver.work.file.read_text().splitlines()]


def test_a_map_does_each_row_once_on_one_worker_or_four_without_a_gang(driver) -> None:
    one, four = driver(1), driver(4)
    assert one.run(None) == four.run(None) == "done"
    in_order = sorted(rows_of(one), key=lambda found: found["row"])
    assert in_order == sorted(rows_of(four), key=lambda found: found["row"])
    assert [found["row"] for found in in_order] == list(range(ROWS))
    assert [found["row"] for found in in_order if "failed" in found] == [BAD]
    assert in_order[0] == {"row": 0, "length": 5.0, "vowels": 5.0}


@pytest.mark.parametrize("turns", [1, 5, 20])
def test_a_map_that_was_stopped_goes_on_with_what_is_not_written_yet(driver, turns: int) -> None:
    first = driver(2, turns)
    assert first.run(None) == "stopped"
    written = len(rows_of(first)) if first.work.file.exists() else 0
    assert written < ROWS
    again = driver(2)
    assert len(again.work.rows) == ROWS - written
    assert again.run(None) == "done"
    assert sorted(found["row"] for found in rows_of(again)) == list(range(ROWS))
