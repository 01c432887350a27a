"""A run that trains nothing: what it has written is its progress, and --resume does what is not written yet.

`score` and `evaluate` are such programs. Each derives a job from `MapJob`, with its recipe, what it reads, and the folder that
its files are written to, and gives it to `run_job`.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Console

from cluster import speaking
from pipelines.engine.driver import Driver, W
from pipelines.engine.messages import LoopPlan, Progress, Sweeps
from pipelines.engine.steering import Control
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Updates, Work
from pipelines.monitoring.bar import Bar
from pipelines.monitoring.watchers import Watcher
from pipelines.recipe.changes import differences, refused
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import dump_recipe, parse_recipe
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.run_folder.events import Stopped
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation
from pipelines.run_folder.shards import Shards
from pipelines.running.job import Job, Start, command_to_continue, mend

STORE_SHARE = 0.6  # of the object store, for images


class MapWork(Work):
    """The work of such a program: rows come into shards, and what they hold already is not done again."""

    def __init__(self, shards: Shards) -> None:
        self.updates, self.shards, self.began = Updates(), shards, time.monotonic()

    def finish(self) -> None:
        """What is known of rows whose shards are not complete is written as well."""
        self.shards.finish()

    def status(self, progress: Progress) -> dict[str, Any]:
        return {
            "rows": self.shards.rows,
            "settled": len(self.shards.written),
            "failed": self.shards.failed,
            "seconds": self.seconds(),
            "quarantined": progress.quarantined,
        }

    def seconds(self) -> float:
        """Since this start."""
        return time.monotonic() - self.began

    @property
    def fruitless(self) -> bool:
        """Whether nothing was found out of any row."""
        return self.shards.empty == self.shards.rows


def last_line(message: str) -> str:
    """Of what a failure says, what is wrong."""
    return (message.strip().splitlines() or ["it failed without a message"])[-1]


def plan_of(streams: Mapping[str, Sweeps], in_flight: int, store_bytes: int | None) -> LoopPlan:
    """Of so many groups at a time, whose images take a share of the object store at most."""
    room = int(STORE_SHARE * store_bytes) if store_bytes else None
    return LoopPlan(streams, max_groups_in_flight=in_flight, max_bytes_in_flight=room)


class MapJob(Job[W]):
    """Of a program `name`, which does so many `units`, such as "rows", and writes them to the folder `written`.

    inputs: what a run that goes on must find as it was, by the recipe's key, in words that change with the content.
    """

    name: ClassVar[str]
    units: ClassVar[str]
    written: ClassVar[str]

    def __init__(self, options: argparse.Namespace, recipe: MapRecipe, count: int, inputs: Mapping[str, str]) -> None:
        self.options, self.recipe, self.count, self.inputs = options, recipe, count, dict(inputs)
        self.cluster, self.exact = recipe.cluster, recipe.run.deterministic
        self.at_start = f"stopped before the first of the {self.units}"

    @abstractmethod
    def figures(self, folder: RunFolder, shown: str) -> list[str]:
        """Lines for the person at the terminal: what came out, and where. shown: the folder's name to people."""

    def look(self, place: RunLocation, root: str, say: Callable[[str], None]) -> None:
        if not self.options.resume:
            RunFolder.check_new(place.path, place.shown)
        mend(place, say)
        if RunFolder.holds_run(place.path):
            self.check_same(RunFolder.open(place.path))
        else:
            place.check_empty()

    def open(self, place: RunLocation) -> RunFolder:
        if RunFolder.holds_run(place.path):
            folder = RunFolder.open(place.path)
            folder.follow(dump_recipe(self.recipe))
            place.bring(self.written)
        else:
            folder = RunFolder.create(place.path, dump_recipe(self.recipe))
        folder.inputs(self.inputs)
        return folder

    def monitors(self, place: RunLocation, folder: RunFolder) -> Sequence[Watcher]:
        return [Bar(self.recipe.run.name or place.name, self.count, self.units)]

    def stopped_at_start(self, place: RunLocation) -> RunFolder:
        folder = self.open(place)
        folder.event(Stopped(message=self.at_start))
        folder.state("stopped", self.at_start)
        return folder

    def show_end(self, status: str, place: RunLocation, folder: RunFolder, console: Console) -> None:
        for line in self.figures(folder, place.shown) if folder.read_summary() else []:
            speaking.say(console, line)
        speaking.say(console, f"folder   {place.shown}  ({status})")
        if status in ("stopped", self.at_start):
            speaking.say(console, f"continue with: {command_to_continue(self.name, self.options, place)}")

    def check_same(self, folder: RunFolder) -> None:
        """Raises UserError if what is done, or how, is not what the run began with."""
        old = parse_recipe(tomllib.loads(folder.read_recipe()), str(folder.path), type(self.recipe))
        if no := refused(differences(old, self.recipe), self.recipe):
            listed = "\n".join(f"  {path} = {new!r} (the run has {before!r})" for path, (before, new) in no.items())
            raise UserError(
                f"--resume: a run cannot change these keys on its way:\n{listed}\nGive the values that it has, or begin a new run"
            )
        began = folder.read_inputs() or self.inputs
        for key, said in self.inputs.items():
            if began.get(key) != said:
                raise UserError(
                    f"--resume: {key} is not what the run began with: it was {began.get(key)}, and is {said}. Give the same, or "
                    "begin a new run"
                )


def map_driver(work: W, recipe: MapRecipe, start: Start) -> Driver[W]:
    """The driver of such a run. No checkpoint is ever made."""
    tickets, name = Tickets(start.executor, recipe.cluster), recipe.run.name or start.place.name
    control = Control(name, work, tickets, start.folder, start.watchers, start.roster, recipe.cluster.autoscale)
    return Driver(work, tickets, start.folder, control, start.checkpoints, start.held)
