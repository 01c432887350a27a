"""Watchers: all are told everything, and none can end a run."""

from __future__ import annotations

import threading

import pytest

from pipelines.monitoring.watchers import Record, Watcher, Watchers
from pipelines.run_folder.event import Event
from pipelines.run_folder.events import WatcherLost
from pipelines.run_folder.records import HeldoutRecord, StepRecord


class Notebook(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def open(self) -> None:
        self.lines.append("open")

    def status(self, status: Record) -> None:
        self.lines.append(f"status {status['step']}")

    def step(self, record: StepRecord) -> None:
        self.lines.append(f"step {record.step}")

    def heldout(self, record: HeldoutRecord) -> None:
        self.lines.append(f"heldout {record.step}")

    def note(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        self.lines.append("close")


class Fragile(Notebook):
    """Fails in its second step."""

    def step(self, record: StepRecord) -> None:
        super().step(record)
        if record.step == 2:
            raise OSError("no space left on device")


def test_every_watcher_is_told_everything() -> None:
    one, other = Notebook(), Notebook()
    with Watchers(one, other) as watchers:
        watchers.status({"step": 0})
        watchers.step(StepRecord(step=1))
        watchers.heldout(HeldoutRecord(tag="during", step=1))
        watchers.note("a worker was lost")
    assert one.lines == ["open", "status 0", "step 1", "heldout 1", "a worker was lost", "close"]
    assert other.lines == one.lines


def test_a_watcher_that_fails_is_let_go_with_one_note() -> None:
    calm, fragile = Notebook(), Fragile()
    with Watchers(fragile, calm) as watchers:
        for step in (1, 2, 3):
            watchers.step(StepRecord(step=step))
    assert fragile.lines == ["open", "step 1", "step 2"]
    warning = "warning: Fragile no longer watches the run: OSError('no space left on device')"
    assert calm.lines == ["open", "step 1", warning, "step 2", "step 3", "close"]


def test_one_that_cannot_even_begin_is_let_go_too() -> None:
    class Broken(Notebook):
        def open(self) -> None:
            raise RuntimeError("no key")

    calm = Notebook()
    with Watchers(Broken(), calm) as watchers:
        watchers.step(StepRecord(step=1))
    assert calm.lines == [
        "warning: Broken no longer watches the run: RuntimeError('no key')",
        "open",
        "step 1",
        "close",
    ]


def test_a_wish_to_stop_that_comes_inside_a_watcher_passes_through() -> None:
    class Interrupted(Notebook):
        def step(self, record: StepRecord) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Watchers(Interrupted()) as watchers:
        watchers.step(StepRecord(step=1))


def test_one_that_gives_up_the_whole_process_is_let_go_and_an_event_says_so_if_nobody_else_can() -> None:
    class GivesUp(Notebook):
        def step(self, record: StepRecord) -> None:
            raise SystemExit(1)

    events: list[Event] = []
    with Watchers(GivesUp(), event=events.append) as watchers:
        watchers.step(StepRecord(step=1))
    assert events == [WatcherLost(watcher="GivesUp", message="SystemExit(1)")]


def test_an_event_that_cannot_be_written_ends_nothing_either() -> None:
    def full_disk(event: Event) -> None:
        raise OSError("no space left on device")

    calm = Notebook()
    with Watchers(Fragile(), calm, event=full_disk) as watchers:
        for step in (1, 2, 3):
            watchers.step(StepRecord(step=step))
    assert calm.lines[-2:] == ["step 3", "close"]


def test_one_that_fails_in_two_threads_at_once_is_let_go_once() -> None:
    together = threading.Barrier(2)

    class Torn(Notebook):
        def note(self, text: str) -> None:
            together.wait(timeout=30)
            raise OSError(text)

    calm = Notebook()
    watchers = Watchers(Torn(), calm)
    threads = [threading.Thread(target=watchers.note, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("no longer watches" in line for line in calm.lines) == 1
    assert {"one", "two"} < set(calm.lines)
