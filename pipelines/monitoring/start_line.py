"""What people see while a run starts: one line that changes at a terminal, lines one after the other in a job's log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.text import Text

from cluster import speaking

CHANGED_S, AGAIN_S = 5.0, 30.0  # in a log: how soon a line follows one that says something else, or the same


class Starting:
    """A context manager. Called with what is being waited for, any number of times."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.status("starting workers")
        self._said: tuple[str, float] | None = None  # the last line of a log, and when

    def __enter__(self) -> Starting:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, text: str) -> None:
        if self.console.is_terminal:
            self._live.update(Text(text))
        elif self._is_due(text):
            speaking.say(self.console, text)
            self._said = (text, time.monotonic())

    def _is_due(self, text: str) -> bool:
        if self._said is None:
            return True
        before, then = self._said
        return time.monotonic() - then > (AGAIN_S if text == before else CHANGED_S)
