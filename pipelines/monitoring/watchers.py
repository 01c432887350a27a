"""Who watches a run: the terminal, Ray's metrics, TensorBoard, Weights & Biases. None of them can end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from pipelines.run_folder.event import Event
from pipelines.run_folder.events import WatcherLost
from pipelines.run_folder.records import HeldoutRecord, StepRecord

Record = dict[str, Any]


class Watcher:
    """Is notified of a run's progress by the driver's loop; here it does nothing. Every method must return soon."""

    def open(self) -> None:
        """The run begins."""

    def status(self, status: Record) -> None:
        """The run as it is now (`Control.status`); comes many times a second."""

    def step(self, record: StepRecord) -> None:
        """A step was trained; its line of metrics.jsonl. One that is replayed comes again."""

    def heldout(self, record: HeldoutRecord) -> None:
        """An evaluation is complete; its line of heldout.jsonl."""

    def note(self, text: str) -> None:
        """A line for people, such as a quarantine or a restart. May come from any thread."""

    def close(self) -> None:
        """The run has ended, however it did."""


class Watchers:
    """Passes every call to all of them, and is open as a context manager.

    One that raises gets no more calls, with a note to the others and an `event` (such as `RunFolder.event`), since there
    may be no others.
    """

    def __init__(self, *watchers: Watcher, event: Callable[[Event], None] | None = None) -> None:
        self._watchers = list(watchers)
        self._event = event
        self._lock = threading.Lock()

    def __enter__(self) -> Watchers:
        self._tell("open")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tell("close")

    def status(self, status: Record) -> None:
        self._tell("status", status)

    def step(self, record: StepRecord) -> None:
        self._tell("step", record)

    def heldout(self, record: HeldoutRecord) -> None:
        self._tell("heldout", record)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def _tell(self, what: str, *args: Any) -> None:
        for watcher in tuple(self._watchers):
            try:
                getattr(watcher, what)(*args)
            except (Exception, SystemExit) as error:  # SystemExit: what libraries raise that give up
                self._let_go(watcher, error)

    def _let_go(self, watcher: Watcher, error: BaseException) -> None:
        with self._lock:
            if watcher not in self._watchers:  # another thread was faster
                return
            self._watchers.remove(watcher)
        name = type(watcher).__name__
        if self._event:
            with suppress(OSError):
                self._event(WatcherLost(watcher=name, message=repr(error)))
        self.note(f"warning: {name} no longer watches the run: {error!r}")
