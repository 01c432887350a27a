"""A process that is killed at a moment of its own work: before, or after, so many calls of something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Moment:
    """Before, or after, so many calls of something. kept: rows that are on disk by then, at least."""

    owner: Any
    name: str
    call: int
    after: bool = False
    kept: int = 0


def killed_run(main: Callable[[Sequence[str]], int], arguments: Sequence[str], moment: Moment) -> int:
    """A program's run of which a process of its own dies at the moment; how that ended, as `Popen.returncode`."""
    child = os.fork()
    if child == 0:
        kill_at(moment)
        os._exit(main(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_each(
    moments: Iterable[Moment], main_of: Callable[[Path], Callable[[Sequence[str]], int]], folder: Path, recipe: str
) -> None:
    """A run that is killed for each of the moments, in a folder of its number. main_of: the program that keeps its log at a path.

    To be called in a process that has loaded everything: it is forked for each.
    """
    for number, moment in enumerate(moments):
        out = folder / str(number)
        arguments = [recipe, "--out", str(out), "--executor", "local"]
        assert killed_run(main_of(out.with_suffix(".log")), arguments, moment) == -signal.SIGKILL


def kill_at(moment: Moment) -> None:
    """From then on this process is no more."""
    function: Callable[..., Any] = getattr(moment.owner, moment.name)
    calls = iter(range(1, 10**6))

    @wraps(function)  # a worker is called by the name
    def watched(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == moment.call
        if last and not moment.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(moment.owner, moment.name, watched)
