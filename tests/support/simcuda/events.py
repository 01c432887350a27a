"""What a program makes a GPU and its host wait for, or copy, with the line that did it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

ROOT = Path(__file__).resolve().parents[3]
Kind = Literal["wait", "to device", "to host"]


@dataclass(frozen=True)
class Event:
    """A wait, or a copy. `blocking`: the host goes on only when the device has done all that it was told so far.

    `line`: the innermost line outside of torch and, where that is a library's, the line of this repository that led there.
    """

    kind: Kind
    what: str
    blocking: bool
    num_bytes: int
    line: str

    def __str__(self) -> str:
        size = f" of {self.num_bytes} bytes" if self.num_bytes else ""
        return f"{'blocking ' if self.blocking and self.kind != 'wait' else ''}{self.kind} {self.what}{size} at {self.line}"


class Log(list[Event]):
    """Events in their order."""

    def blocking(self, kind: Kind | None = None) -> list[Event]:
        """Those that make the host wait."""
        return [event for event in self if event.blocking and kind in (None, event.kind)]

    def copied(self, kind: Kind) -> int:
        """Bytes that went this way."""
        return sum(event.num_bytes for event in self if event.kind == kind)

    def __str__(self) -> str:
        return "\n".join(f"{count} x {event}" for event, count in Counter(self).most_common())


_open: list[Log] = []
mode = "default"
"""What torch.cuda.set_sync_debug_mode was told."""


@contextmanager
def watch() -> Iterator[Log]:
    """Collects what happens within it."""
    log = Log()
    _open.append(log)
    try:
        yield log
    finally:
        _open.remove(log)


def note(kind: Kind, what: str, blocking: bool, num_bytes: int = 0) -> None:
    """Adds an event to all logs that are open. Raises RuntimeError as CUDA does where waiting was forbidden."""
    if blocking and mode == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation: {what} at {_line()}")
    if _open:
        event = Event(kind, what, blocking, num_bytes, _line())
        for log in _open:
            log.append(event)


def _line() -> str:
    """Where the program is."""
    torch_folder, here = str(Path(torch.__file__).parent), str(Path(__file__).parent)
    innermost = ""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((torch_folder, here, "<")):
            ours = Path(file).is_relative_to(ROOT) and "site-packages" not in file
            line = f"{file.removeprefix(str(ROOT) + '/').rpartition('site-packages/')[2]}:{frame.f_lineno}"
            if ours:
                return f"{innermost}, from {line}" if innermost else line
            innermost = innermost or line
        frame = frame.f_back  # type: ignore[assignment]
    return innermost or "?"
