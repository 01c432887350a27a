"""The main job: draw images of prompts, let a frozen judge score them, make the better ones more likely; again and again.

    python -m pipelines.train RECIPE [--out DIR] [--set key=value ...] [--executor ray|local]
        [--resume [CHECKPOINT]] [--take-over]

Exit codes: 0 done, 2 a user's mistake, 1 anything else, 130 stopped (Ctrl-C, SIGTERM, SIGHUP, `python -m cluster stop`) with
what --resume continues.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from rich.console import Console

from cluster import speaking
from cluster.stops import STOPPED, nothing, stops
from pipelines.engine.checkpoint import Found
from pipelines.engine.driver import Driver
from pipelines.engine.recovery import report_damage
from pipelines.monitoring.monitors import check_monitors, monitors
from pipelines.monitoring.start_line import Starting
from pipelines.monitoring.terminal import Display, heldout_table
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.arguments import AUTO, parse_train
from pipelines.recipe.errors import RunFailed, UserError
from pipelines.recipe.load import load_recipe
from pipelines.reporting.page import write_report
from pipelines.run_folder import events
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.lease import PlaceTaken
from pipelines.run_folder.location import RunLocation, check_writable
from pipelines.run_folder.provenance import provenance
from pipelines.run_folder.roster import Roster
from pipelines.submitting.package import check_out_of_job, in_job
from pipelines.training.beginning import changes_since, choose_checkpoint, leases, load_data, open_folder, out_of
from pipelines.training.ending import STOPPED_AT_THE_START, nothing_done, stopped_at_the_start, write_summary
from pipelines.training.pools import MakePools, make_executor, pool_specs
from pipelines.training.work import TrainWork, driver_of


def program(pools: MakePools) -> Callable[..., int]:
    """The main job with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        options = parse_train(arguments)
        options.command = shlex.join(["python", "-m", "pipelines.train", *arguments])
        return train(options, pools, speaking.console())

    return main


def train(options: argparse.Namespace, pools: MakePools, console: Console) -> int:
    """One run from recipe to report."""
    check_out_of_job(options.out)
    recipe = load_recipe(options.recipe, options.set)
    check_monitors(recipe.monitor)
    order, heldout, inputs = load_data(recipe, options.executor)
    place = RunLocation(out_of(options))
    root = recipe.loop.checkpoints or place.checkpoints
    say = partial(speaking.say, console)
    with leases(place, root, options.take_over, say) as held, place:
        check_writable(root, "loop.checkpoints")
        found, problems = choose_checkpoint(options.resume, place, root)
        changes = changes_since(found, recipe, inputs) if found else {}
        for text in RunFolder(place.path).mend():
            say(f"warning: {text}")
        if options.resume == AUTO and not found:
            say(f"no checkpoint in {root} to go on from: the run begins at step 0")
        try:
            with Starting(console) as starting:
                specs, name = pools(recipe, heldout.example()), f"{place.name}-{os.getpid()}"
                executor = make_executor(specs, recipe.cluster, options.executor, name, place.path, starting)
                executor.start()
            try:
                roster = Roster(recipe.exact)
                roster.meet(executor.introductions())
                if roster.problem and roster.exact:
                    raise UserError(roster.problem)
                say(str(roster))
                folder = open_folder(place.path, recipe, found, changes)
                roster.write(folder)
                folder.event(provenance(options.command, roster))
                named = recipe.run.name or place.name
                display = Display(recipe.loop.steps, named)
                step = found.manifest.step if found else 0
                chosen = monitors(recipe.monitor, recipe, named, folder, options.executor == "ray", step)
                with Watchers(display, *chosen, event=folder.event) as watchers:
                    place.watch(watchers.note)
                    report_damage(folder, watchers.note, problems)
                    driver = driver_of(
                        recipe, order, heldout, executor, folder, watchers, root, inputs, place.final, held, roster
                    )
                    status = run(driver, found, folder)
            finally:
                executor.close()
        except KeyboardInterrupt:  # while workers started: `run` hears of it otherwise
            stops.tell(nothing)
            held()
            place.watch(say)
            status, folder = STOPPED_AT_THE_START, stopped_at_the_start(place.path, recipe, found)
        show_end(status, place, folder, options, console)
    return {"done": 0, "stopped": STOPPED, STOPPED_AT_THE_START: STOPPED}.get(status, 1)


def run(driver: Driver[TrainWork], found: Found | None, folder: RunFolder) -> str:
    """Drives the run to its end; whatever the end, the folder says how it ended and what was reached."""
    folder.state("running")
    if found:
        folder.event(events.Resumed(step=found.manifest.step, checkpoint=found.place))
    status, ours = "failed", True
    try:
        stops.tell(partial(stop, driver))
        status = driver.run(found)
        if status == "done" and (problem := nothing_done(driver)):
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
            write_summary(driver, folder, status)
            folder.state(status)
    return status


def stop(driver: Driver[TrainWork]) -> None:
    """The first request stops the run cleanly, the second at once."""
    if driver.control.stopping:
        raise KeyboardInterrupt
    driver.control.stop()


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
        speaking.say(console, f"continue with: {command_to_continue(options, place)}")
        if in_job():  # the last line is what Ray's dashboard and `ray job list` show of such a job
            speaking.say(console, f"stopped on request (exit code {STOPPED}; Ray lists such a job as FAILED)")


def command_to_continue(options: argparse.Namespace, place: RunLocation) -> str:
    """What to paste into a shell to go on with a run that was stopped."""
    given = [word for override in options.set for word in ("--set", override)]
    if options.executor != "ray":
        given += ["--executor", options.executor]
    return shlex.join(
        ["python", "-m", "pipelines.train", str(options.recipe), "--out", place.shown, *given, "--resume"]
    )


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
