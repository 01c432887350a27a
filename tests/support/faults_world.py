"""A training run as processes that can be hurt: started, watched through its folder, stopped in the middle of a method, killed.

What `bench.faults` and the tests of faults share. Workers are found by the title that Ray gives their processes:
`ray::RewardActor.score` while that method runs, `ray::RewardActor` between calls. Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.joining.token import VARIABLES
from pipelines.run_folder.folder import Record, RunFolder

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0
GLANCE_S = 0.0005  # between two looks at a title: the miniature worlds' methods take some milliseconds
LOOK_AROUND_S = 0.2  # between two searches for the processes of a class
ASK_AGAIN_S = 0.05  # whether what is waited for has happened

T = TypeVar("T")


class NotSeen(AssertionError):
    """What was waited for did not happen; the text holds the end of what the run said."""


@dataclass(frozen=True)
class Process:
    """A process as it was when it was looked at; `pid` and `started` (clock ticks since boot) together name it for good."""

    pid: int
    started: int
    parent: int
    state: str
    title: str

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has ended and was not yet collected by its parent does not."""
        now = look_at(self.pid)
        return now is not None and now.started == self.started and now.state not in "ZX"

    def kill(self) -> None:
        """Ends it (SIGKILL), stopped or not."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


def look_at(pid: int) -> Process | None:
    """The process with this number, or None."""
    fields, title = _stat(pid), _read(f"/proc/{pid}/cmdline")
    if not fields or title is None:
        return None
    words = title.replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, int(fields[19]), int(fields[1]), fields[0].decode(), words)


def descendants(root: int) -> list[Process]:
    """All living processes below `root`."""
    children: dict[int, list[int]] = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    parents = [root]
    while parents:
        below = children.get(parents.pop(), [])
        found += below
        parents += below
    return [process for process in map(look_at, found) if process and process.state not in "ZX"]


def workers(title: str) -> list[Process]:
    """Ray's workers below this process whose title begins so, such as "RewardActor"."""
    return [process for process in descendants(os.getpid()) if process.title.startswith(f"ray::{title}")]


class Run:
    """One start of the main job, in a process group of its own. Its Ray, or the cluster at `address`, runs below this process.

    options: words of the command line. said: a file for what the run says, by default beside its folder. program: the module
    to start in place of the main job, with the same command line.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        *options: str,
        address: str = "",
        said: Path | None = None,
        program: str = "pipelines.train",
    ) -> None:
        self.recipe, self.out, self.options, self.address, self.program = recipe, out, options, address, program
        self.folder = RunFolder(out)
        self.said = said or out.parent / f"{out.name}.log"
        self.said.parent.mkdir(parents=True, exist_ok=True)
        environment = {**(os.environ if address else without_ray()), "RAY_ADDRESS": address, "COLUMNS": "200"}
        command = [sys.executable, "-m", program, str(recipe), "--out", str(out), *options]
        with self.said.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0)

    def resume(self, *more: str) -> Run:
        """The same run once more, with --resume, after this process has ended."""
        options = [option for option in self.options if option != "--resume"]
        words = [*options, *more, "--resume"]
        return Run(self.recipe, self.out, *words, address=self.address, said=self.said, program=self.program)

    # -- watching

    def output(self) -> str:
        """What all starts of the run wrote to the terminal so far."""
        return self.said.read_text(errors="replace")

    def steps(self) -> int:
        """The last step that is trained and recorded."""
        records = self.folder.read_metrics()
        return records[-1].step if records else 0

    def events(self, kind: str) -> list[Record]:
        """The events of a kind so far."""
        return [line.fields for line in self.folder.read_events() if line.kind == kind]

    def until(self, condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_S) -> T:
        """Waits until the condition gives something; returns it. Raises NotSeen if the run ends before, or time runs out."""
        give_up = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None
            if found := condition():
                return found
            if ended or time.monotonic() > give_up:
                why = f"the run ended with {self.process.returncode}" if ended else f"{seconds:.0f} s went by"
                raise NotSeen(f"{what}: {why}. It said:\n{self.output()[-4000:]}")
            time.sleep(ASK_AGAIN_S)

    def reach(self, step: int) -> None:
        """Waits until a step is trained and recorded."""
        self.until(lambda: self.steps() >= step, f"step {step}")

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Waits for the end of the process; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotSeen(f"the run did not end within {seconds:.0f} s. It said:\n{self.output()[-4000:]}") from None

    # -- hurting

    def catch(self, method: str, seconds: float = PATIENCE_S, besides: Collection[int] = ()) -> Process:
        """Stops a worker in the middle of a method, such as "RewardActor.score"; returns it, still stopped.

        "Storage." is any method of Storage. besides: process ids of workers that are left alone.
        """
        glances = self._glances(method.partition(".")[0], time.monotonic() + seconds)
        for process in glances:
            if process.pid not in besides and _is_in(method, process) and stop(process):
                if _is_in(method, look_at(process.pid)):
                    return process
                go_on(process)
        raise NotSeen(f"no worker was seen in {method}. The run said:\n{self.output()[-4000:]}")

    def kill_in(self, method: str, besides: Collection[int] = ()) -> Process:
        """Ends a worker (SIGKILL) in the middle of a method, but none of those `besides`."""
        process = self.catch(method, besides=besides)
        process.kill()
        return process

    def kill(self) -> None:
        """Ends the driver (SIGKILL), and nothing else."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """What Ctrl-C does to the driver."""
        self.process.send_signal(signal.SIGINT)

    def signal_group(self, number: signal.Signals) -> None:
        """What `timeout`, Slurm and a terminal do: to the driver, and to its process group."""
        self.process.send_signal(number)
        os.killpg(self.process.pid, number)

    def _glances(self, class_name: str, give_up: float) -> Iterator[Process]:
        """The workers of a class as they are at this moment, again and again."""
        while time.monotonic() < give_up and self.process.poll() is None:
            pids = [process.pid for process in workers(class_name)]
            search_again = time.monotonic() + LOOK_AROUND_S
            while time.monotonic() < search_again:
                yield from filter(None, map(look_at, pids))
                time.sleep(GLANCE_S)


def stop(process: Process, seconds: float = 5.0) -> bool:
    """Stops a process (SIGSTOP); whether it came to a halt."""
    give_up = time.monotonic() + seconds
    try:
        os.kill(process.pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    while (now := look_at(process.pid)) and now.state != "T" and time.monotonic() < give_up:
        time.sleep(GLANCE_S)
    return now is not None and now.state == "T"


def go_on(process: Process) -> None:
    """Lets a stopped process go on; one that was ended meanwhile is left alone."""
    if process.alive:
        os.kill(process.pid, signal.SIGCONT)


def without_ray() -> dict[str, str]:
    """The environment of this process, less what leads to its cluster."""
    leads = ("RAY_ADDRESS", *VARIABLES)
    return {name: value for name, value in os.environ.items() if name not in leads}


def overrides(**values: object) -> list[str]:
    """`loop__steps=5` as the words `--set loop.steps=5`."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def _stat(pid: int) -> list[bytes]:
    """What /proc says of a process behind its name: state, parent and so on. Empty if there is none."""
    return (_read(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()


def _read(path: str) -> bytes | None:
    """A file of /proc: while a test waits it reads thousands, beside the run that shares its cores."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _is_in(method: str, process: Process | None) -> bool:
    if process is None:
        return False
    title = f"ray::{method}"
    return process.title.startswith(title) if method.endswith(".") else process.title == title
