"""The main job: draw images of prompts, let a frozen judge score them, make the better ones more likely; again and again.

    python -m pipelines.train RECIPE [--out DIR] [--set key=value ...] [--executor ray|local]
        [--resume [CHECKPOINT]] [--take-over]

Exit codes: 0 done, 2 a user's mistake, 1 anything else, 130 stopped (Ctrl-C, SIGTERM, SIGHUP, `python -m cluster stop`) with
what --resume continues.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from rich.console import Console

from cluster import speaking
from cluster.stops import STOPPED
from cluster.tasks import PoolSpec
from pipelines.engine.driver import Driver
from pipelines.engine.recovery import report_damage
from pipelines.monitoring.monitors import check_monitors, monitors
from pipelines.monitoring.terminal import Display, heldout_table
from pipelines.monitoring.watchers import Watcher
from pipelines.recipe.arguments import AUTO, parse_train
from pipelines.recipe.changes import Changes
from pipelines.recipe.load import load_recipe
from pipelines.reporting.page import write_report
from pipelines.run_folder import events
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation, check_writable
from pipelines.running.job import Job, Start, command_to_continue, mend, run_job
from pipelines.submitting.package import check_out_of_job, in_job
from pipelines.training.beginning import changes_since, choose_checkpoint, load_data, open_folder
from pipelines.training.ending import STOPPED_AT_THE_START, nothing_done, stopped_at_the_start, write_summary
from pipelines.training.pools import MakePools, pool_specs
from pipelines.training.work import TrainWork, driver_of


def program(pools: MakePools) -> Callable[..., int]:
    """The main job with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        options = parse_train(arguments)
        options.command = shlex.join(["python", "-m", "pipelines.train", *arguments])
        check_out_of_job(options.out)
        return run_job(TrainJob(options, pools), speaking.console())

    return main


class TrainJob(Job[TrainWork]):
    """One run of `train`."""

    at_start = STOPPED_AT_THE_START

    def __init__(self, options: argparse.Namespace, pools: MakePools) -> None:
        recipe = load_recipe(options.recipe, options.set)
        check_monitors(recipe.monitor)
        self.options, self.recipe, self.make_pools = options, recipe, pools
        self.cluster, self.exact = recipe.cluster, recipe.exact
        self.order, self.heldout, self.inputs = load_data(recipe, options.executor)
        self.problems: list[str] = []  # of checkpoints that are not gone on from
        self.changes: Changes = {}

    def checkpoints(self, place: RunLocation) -> str:
        return self.recipe.loop.checkpoints or super().checkpoints(place)

    def look(self, place: RunLocation, root: str, say: Callable[[str], None]) -> None:
        check_writable(root, "loop.checkpoints")
        resume = self.options.resume
        self.found, self.problems = choose_checkpoint(resume, place, root)
        self.changes = changes_since(self.found, self.recipe, self.inputs) if self.found else {}
        mend(place, say)
        if resume == AUTO and not self.found:
            say(f"no checkpoint in {root} to go on from: the run begins at step 0")

    def pools(self) -> list[PoolSpec]:
        return self.make_pools(self.recipe, self.heldout.example())

    def open(self, place: RunLocation) -> RunFolder:
        return open_folder(place.path, self.recipe, self.found, self.changes)

    def monitors(self, place: RunLocation, folder: RunFolder) -> Sequence[Watcher]:
        recipe, step = self.recipe, self.found.manifest.step if self.found else 0
        named = recipe.run.name or place.name
        chosen = monitors(recipe.monitor, recipe, named, folder, self.options.executor == "ray", step)
        return [Display(recipe.loop.steps, named), *chosen]

    def driver(self, start: Start) -> Driver[TrainWork]:
        folder, watchers = start.folder, start.watchers
        report_damage(folder, watchers.note, self.problems)
        made_of = (self.recipe, self.order, self.heldout, start.executor, folder, watchers, start.checkpoints)
        return driver_of(*made_of, self.inputs, start.place.final, start.held, start.roster)

    def problem(self, driver: Driver[TrainWork]) -> str | None:
        return nothing_done(driver)

    def finish(self, driver: Driver[TrainWork], folder: RunFolder, status: str) -> None:
        write_summary(driver, folder, status)

    def stopped_at_start(self, place: RunLocation) -> RunFolder:
        return stopped_at_the_start(place.path, self.recipe, self.found)

    def show_end(self, status: str, place: RunLocation, folder: RunFolder, console: Console) -> None:
        show_end(status, place, folder, self.options, console)


def show_end(status: str, place: RunLocation, folder: RunFolder, options: argparse.Namespace, console: Console) -> None:
    """The last words of a run: its figures, where they are, and how to go on."""
    try:
        report = f"{place.shown}/{write_report(folder.path).name}"
        if status == "done":
            console.print(heldout_table(folder.read_heldout()))
    except Exception as error:  # the run has ended as it has, whatever cannot be shown of it
        with suppress(OSError):
            folder.event(events.ReportFailed(message=repr(error)))
        report = f"could not be written: {error!r}; python -m pipelines.report {shlex.quote(place.shown)} tries again"
    summary = f"\nsummary  {place.shown}/summary.json" if folder.read_summary() else ""
    speaking.say(console, f"report   {report}{summary}\nfolder   {place.shown}  ({status})")
    if status in ("stopped", STOPPED_AT_THE_START):
        speaking.say(console, f"continue with: {command_to_continue('train', options, place)}")
        if in_job():  # the last line is what Ray's dashboard and `ray job list` show of such a job
            speaking.say(console, f"stopped on request (exit code {STOPPED}; Ray lists such a job as FAILED)")


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
