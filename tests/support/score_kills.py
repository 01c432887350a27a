"""A process of `score` that is killed: `python -m tests.support.score_kills FOLDER RECIPE`, once at each of some moments."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from pipelines import score
from pipelines.run_folder.shards import Shards
from pipelines.running.reader import ImageReader
from tests.support.score_world import NotingReward, main_with


@dataclass(frozen=True)
class Moment:
    """Before, or after, so many calls of something. kept: rows that are on disk by then, at least."""

    owner: Any
    name: str
    call: int
    after: bool = False
    kept: int = 0


MOMENTS = {
    "the first images are read": Moment(ImageReader, "read", 1),
    "others are read": Moment(ImageReader, "read", 8, kept=4),
    "an image is judged": Moment(NotingReward, "judge", 9, kept=4),
    "a file is to be written": Moment(Shards, "_write", 3, kept=6),
    "a file was written": Moment(Shards, "_write", 3, after=True, kept=8),
    "the summary is written": Moment(score, "write_summary", 1, kept=20),
    "the report is written": Moment(score, "write_scores_report", 1, kept=20),
}


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


def killed_run(recipe: str, out: Path, moment: Moment) -> int:
    """A run of which a process of its own dies at the moment; how that ended, as `Popen.returncode`."""
    child = os.fork()
    if child == 0:
        kill_at(moment)
        arguments = [recipe, "--out", str(out), "--executor", "local"]
        os._exit(main_with(NotingReward, log=out.with_suffix(".log"))(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":  # one process that loads everything, and is forked for each
    folder, recipe = Path(sys.argv[1]), sys.argv[2]
    for number, moment in enumerate(MOMENTS.values()):
        assert killed_run(recipe, folder / str(number), moment) == -signal.SIGKILL
