"""Progress for the person at the terminal: a bar there, a line for every tenth in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster import speaking
from pipelines.monitoring.watchers import Record, Watcher

TENTHS = 10


def progress_bar(console: Console) -> Progress:
    """A bar over the width of a terminal, with how many are done, since when, and for how long yet."""
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )


class Bar(Watcher):
    """Shows how many of so many units, such as "rows", are done: `settled` and `failed` of a status."""

    def __init__(self, title: str, count: int, units: str) -> None:
        self.console, self.count, self.units = speaking.console(), count, units
        self._bar = progress_bar(self.console)
        self._task = self._bar.add_task(title, total=count)
        self._said = 0

    def open(self) -> None:
        if self.console.is_terminal:
            self._bar.start()

    def close(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def status(self, status: Record) -> None:
        self._bar.update(self._task, completed=status["settled"])
        tenth = TENTHS * status["settled"] // self.count
        if tenth > self._said and not self.console.is_terminal:
            self._said = tenth
            self.note(f"{status['settled']}/{self.count} {self.units}, {status['failed']} failed")

    def note(self, text: str) -> None:
        speaking.say(self.console, text)
