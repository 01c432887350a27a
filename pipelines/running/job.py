"""A run of a program with workers, from its place to its exit code: what `train`, `score` and their like do the same way.

A program makes a `Job` of what it was given, checked, and gives it to `run_job`. What is specific to the program is in the
job's methods, which are called in the order in which they stand. A program that trains nothing derives its job from
`pipelines.running.mapping.MapJob`.
"""

from __future__ import annotations

import argparse
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic

from rich.console import Console

from cluster import speaking
from cluster.stops import STOPPED, nothing, stops
from cluster.tasks import Executor, PoolSpec
from pipelines.engine.checkpoint import Found
from pipelines.engine.driver import Driver, W
from pipelines.monitoring.start_line import Starting
from pipelines.monitoring.watchers import Watcher, Watchers
from pipelines.recipe.errors import RunFailed, UserError
from pipelines.recipe.tables import Cluster
from pipelines.run_folder import events
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.lease import PlaceTaken
from pipelines.run_folder.location import RunLocation
from pipelines.run_folder.provenance import provenance
from pipelines.run_folder.roster import Roster
from pipelines.running.place import leases, out_of
from pipelines.running.workers import make_executor


@dataclass(frozen=True)
class Start:
    """What a driver is made of. checkpoints: where they go; `held` raises PlaceTaken once another run has the place."""

    executor: Executor
    roster: Roster
    place: RunLocation
    folder: RunFolder
    watchers: Watchers
    checkpoints: str
    held: Callable[[], None]


class Job(ABC, Generic[W]):
    """One run of a program: what it was given.

    options: the words of the command line; cluster, exact: of the recipe; at_start: the status of a run that was stopped
    while its workers started.
    """

    options: argparse.Namespace
    cluster: Cluster
    exact: bool
    at_start: str
    found: Found | None = None  # the checkpoint that it goes on from

    def checkpoints(self, place: RunLocation) -> str:
        """Where checkpoints go."""
        return place.checkpoints

    @abstractmethod
    def look(self, place: RunLocation, root: str, say: Callable[[str], None]) -> None:
        """Looks at what lies there, and at `root`, the place of checkpoints. Raises UserError where this run cannot begin or go on."""

    @abstractmethod
    def pools(self) -> list[PoolSpec]:
        """The workers."""

    @abstractmethod
    def open(self, place: RunLocation) -> RunFolder:
        """The run folder, begun or taken up."""

    @abstractmethod
    def monitors(self, place: RunLocation, folder: RunFolder) -> Sequence[Watcher]:
        """Who watches the run; the terminal first."""

    @abstractmethod
    def driver(self, start: Start) -> Driver[W]:
        """The driver with the program's work."""

    @abstractmethod
    def problem(self, driver: Driver[W]) -> str | None:
        """Why a run that came to its end has nothing to show; None if it has."""

    @abstractmethod
    def finish(self, driver: Driver[W], folder: RunFolder, status: str) -> None:
        """Writes what is known, summary.json included; called whatever the end."""

    @abstractmethod
    def stopped_at_start(self, place: RunLocation) -> RunFolder:
        """The run folder of a run that was stopped while its workers started, which says so."""

    @abstractmethod
    def show_end(self, status: str, place: RunLocation, folder: RunFolder, console: Console) -> None:
        """The last words: figures, where they are, and how to go on."""


def run_job(job: Job[W], console: Console) -> int:
    """Runs it to its end; returns the exit code."""
    options, place, say = job.options, RunLocation(out_of(job.options)), partial(speaking.say, console)
    root = job.checkpoints(place)
    with leases(place, root, options.take_over, say) as held, place:
        job.look(place, root, say)
        try:
            with workers(job, place, console) as (executor, roster):
                folder = job.open(place)
                roster.write(folder)
                folder.event(provenance(options.command, roster))
                with Watchers(*job.monitors(place, folder), event=folder.event) as watchers:
                    place.watch(watchers.note)
                    driver = job.driver(Start(executor, roster, place, folder, watchers, root, held))
                    status = drive(job, driver, folder)
        except KeyboardInterrupt:  # while workers started: later, `drive` handles it
            stops.tell(nothing)
            held()
            place.watch(say)
            status, folder = job.at_start, job.stopped_at_start(place)
        job.show_end(status, place, folder, console)
    return {"done": 0, "stopped": STOPPED, job.at_start: STOPPED}.get(status, 1)


@contextmanager
def workers(job: Job[W], place: RunLocation, console: Console) -> Iterator[tuple[Executor, Roster]]:
    """The workers, started and met; they end with the context. Raises UserError if they would not all give the same bits."""
    with Starting(console) as starting:
        pools, name = job.pools(), f"{place.name}-{os.getpid()}"
        executor = make_executor(pools, job.cluster, job.options.executor, name, place.path, starting)
        executor.start()
    try:
        roster = Roster(job.exact)
        roster.meet(executor.introductions())
        if roster.problem and roster.exact:
            raise UserError(roster.problem)
        speaking.say(console, str(roster))
        yield executor, roster
    finally:
        executor.close()


def drive(job: Job[W], driver: Driver[W], folder: RunFolder) -> str:
    """Drives the run to its end; whatever the end, the folder says how it ended and what was reached."""
    folder.state("running")
    if job.found:
        folder.event(events.Resumed(step=job.found.manifest.step, checkpoint=job.found.place))
    status, ours = "failed", True
    try:
        stops.tell(partial(stop, driver))
        status = driver.run(job.found)
        if status == "done" and (problem := job.problem(driver)):
            raise RunFailed(problem)
    except KeyboardInterrupt:
        status = "stopped"
    except RunFailed as error:
        status = "failed"
        folder.event(events.RunFailed(message=str(error)))
        driver.note(f"the run failed: {error}")
    except PlaceTaken:
        ours = False
        raise
    except BaseException as error:
        folder.event(events.RunFailed(message=repr(error)))
        raise
    finally:
        stops.tell(nothing)
        if ours:
            end(job, driver, folder, status)
    return status


def end(job: Job[W], driver: Driver[W], folder: RunFolder, status: str) -> None:
    """Writes what is known; a run of which that cannot be written, as on a full disk, has failed."""
    try:
        job.finish(driver, folder, status)
    except BaseException:
        status = "failed"
        raise
    finally:
        folder.state(status)


def stop(driver: Driver[W]) -> None:
    """The first request stops the run cleanly, the second at once."""
    if driver.control.stopping:
        raise KeyboardInterrupt
    driver.control.stop()


def mend(place: RunLocation, say: Callable[[str], None]) -> None:
    """Makes damaged files of the folder such that a run can go on from them, and says what it did."""
    for text in RunFolder(place.path).mend():
        say(f"warning: {text}")


def command_to_continue(program: str, options: argparse.Namespace, place: RunLocation) -> str:
    """What to paste into a shell to go on with a run that was stopped."""
    given = [word for override in options.set for word in ("--set", override)]
    if options.executor != "ray":
        given += ["--executor", options.executor]
    command = ["python", "-m", f"pipelines.{program}", str(options.recipe), "--out", place.shown, *given, "--resume"]
    return shlex.join(command)
