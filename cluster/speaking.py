"""How programs speak: users' text is shown as it is, and nothing that becomes of the terminal is an error of the program.

A reader that leaves (`| head`), a full disk under a log, an encoding without a character, no standard output at all: a run
that takes days must not end by any of them, nor a finished one look failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from cluster.stops import STOPPED, stops

STANDARD_FILES = (0, 1, 2)
FAILED, MISTAKE = 1, 2

Main = Callable[[Sequence[str] | None], int]


class Outlet:
    """A text stream around another one that never raises: what its encoding lacks becomes "?".

    Once it cannot be written, `lost` says why, and what is written from then on is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        self._try(lambda: self._stream.write(text.encode(encoding, "replace").decode(encoding)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], Any]) -> None:
        if self.lost is None:
            try:
                call()
            except BlockingIOError:  # a pipe that is full for a moment
                pass
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self.lost = error
                self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        """What the stream still holds would be written when Python ends, which would turn exit code 0 into 120."""
        with suppress(OSError, ValueError):  # ValueError: it is no file of the system's
            target = self._stream.fileno()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, target)
            os.close(nothing)


def program(main: Main) -> Callable[..., int]:
    """Decorates a program's `main(arguments)`: while it runs, standard output and standard error are outlets.

    It ends with exit code 130 when it is asked to stop and does not handle that itself; by an error that says all in its own
    words, with that error's code (docs/decisions/0026). Any other error is a fault of the program, with its traceback.
    """

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        with outlets(), stops.heard():
            try:
                return main(arguments)
            except KeyboardInterrupt:
                return STOPPED
            except Exception as error:
                if (code := exit_code_of(error)) is None:
                    raise
                return fail("error" if code == MISTAKE else "failed", error, code)

    return run


def exit_code_of(error: Exception) -> int | None:
    """MISTAKE for a user's, FAILED for what did not come about; None for a fault of the program.

    The classes say it themselves, by `exit_code`. What the system refuses, such as a full disk, is no fault of the program.
    """
    return getattr(error, "exit_code", FAILED if isinstance(error, OSError) else None)


@contextmanager
def outlets() -> Iterator[None]:
    """Makes sys.stdout and sys.stderr outlets; what they hold is written at the end, if it can be."""
    _fill_standard_files()
    before = sys.stdout, sys.stderr
    opened = [Outlet(stream or _nowhere()) for stream in before]  # None: it was closed from the start
    sys.stdout, sys.stderr = opened
    try:
        yield
    finally:
        for outlet in opened:
            outlet.flush()
        sys.stdout, sys.stderr = before


def console(stderr: bool = False, **options: Any) -> Console:
    """A console that takes no text for markup, emoji codes included."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, **options)


def say(where: Console, text: str, kind: str = "", style: str = "") -> None:
    """A line, never broken at the terminal's width; `kind` comes before it, in `style`."""
    where.print(Text.assemble((kind, style), " " if kind and text else "", text), soft_wrap=True)


def fail(kind: str, message: object, code: int) -> int:
    """Says on standard error what went wrong; returns the exit code."""
    say(console(stderr=True), str(message), kind, "bold red")
    return code


def lost(where: Console) -> Exception | None:
    """Why nobody can read this output any more; None if somebody may."""
    return getattr(where.file, "lost", None)


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _fill_standard_files() -> None:
    """Opens /dev/null where a standard file is closed: the next file opened would get its number, and others' lines."""
    for number in STANDARD_FILES:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
