"""Scores images by the captions that they come with: every reward of the recipe, per image and, on request, per token.

    python -m pipelines.score RECIPE [--out DIR] [--set key=value ...] [--executor ray|local] [--resume] [--take-over]

The scores are scores/*.parquet of the run folder. What is written there is not done again: --resume goes on after a stop or a
kill. A row that cannot be scored is listed with its reason, and has no score. Exit codes as `train`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console

from cluster import speaking
from cluster.stops import STOPPED, nothing, stops
from cluster.tasks import Introduction
from pipelines.data.images import find_images
from pipelines.engine.driver import Driver
from pipelines.monitoring.start_line import Starting
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.arguments import map_parser, parse_map
from pipelines.recipe.errors import RunFailed, UserError
from pipelines.recipe.load import load_recipe
from pipelines.reporting.scores import write_scores_report
from pipelines.run_folder import events
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.lease import PlaceTaken
from pipelines.run_folder.location import RunLocation
from pipelines.run_folder.provenance import provenance
from pipelines.run_folder.roster import Roster
from pipelines.scoring.beginning import check_folder, check_models, open_folder
from pipelines.scoring.display import Display
from pipelines.scoring.ending import write_summary
from pipelines.scoring.pools import MakePools, pool_specs
from pipelines.scoring.recipe import ScoreRecipe
from pipelines.scoring.work import ScoreWork, driver_of
from pipelines.submitting.package import check_out_of_job
from pipelines.training.beginning import leases, out_of
from pipelines.training.pools import make_executor

ABOUT = "Score images by the captions that they come with: every reward of the recipe, per image and per token."


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    return map_parser("score", ABOUT, "recipes/toy_score.toml", "data.images=pictures")


def program(pools: MakePools) -> Callable[..., int]:
    """The program with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        options = parse_map(make_parser(), arguments)
        options.command = shlex.join(["python", "-m", "pipelines.score", *arguments])
        return score(options, pools, speaking.console())

    return main


def score(options: argparse.Namespace, pools: MakePools, console: Console) -> int:
    """One run from recipe to report."""
    check_out_of_job(options.out)
    recipe = load_recipe(options.recipe, options.set, ScoreRecipe)
    check_models(recipe)
    rows = find_images(recipe.data.images, recipe.data.caption)
    place, say = RunLocation(out_of(options)), partial(speaking.say, console)
    with leases(place, place.checkpoints, options.take_over, say) as held, place:
        for text in RunFolder(place.path).mend():
            say(f"warning: {text}")
        check_folder(place, recipe, rows, options.resume)
        try:
            with Starting(console) as starting:
                specs, name = pools(recipe, rows), f"{place.name}-{os.getpid()}"
                executor = make_executor(specs, recipe.cluster, options.executor, name, place.path, starting)
                executor.start()
            try:
                roster = meet(executor.introductions(), recipe)
                say(str(roster))
                folder = open_folder(place, recipe, rows)
                roster.write(folder)
                folder.event(provenance(options.command, roster))
                display = Display(recipe.run.name or place.name, len(rows))
                with Watchers(display, event=folder.event) as watchers:
                    place.watch(watchers.note)
                    driver = driver_of(recipe, rows, executor, folder, watchers, place.checkpoints, held, roster)
                    status = run(driver, folder)
            finally:
                executor.close()
        except KeyboardInterrupt:  # while workers started: `run` hears of it otherwise
            stops.tell(nothing)
            held()
            place.watch(say)
            status, folder = "stopped", open_folder(place, recipe, rows)
            folder.event(events.Stopped(message="stopped before the first row"))
            folder.state(status)
        show_end(status, place, folder, options, console)
    return {"done": 0, "stopped": STOPPED}.get(status, 1)


def meet(introductions: list[Introduction], recipe: ScoreRecipe) -> Roster:
    """The workers of this start. Raises UserError if they would not all give the same bits."""
    roster = Roster(recipe.run.deterministic)
    roster.meet(introductions)
    if roster.problem and roster.exact:
        raise UserError(roster.problem)
    return roster


def run(driver: Driver[ScoreWork], folder: RunFolder) -> str:
    """Drives the run to its end; whatever the end, what is known is written."""
    folder.state("running")
    status, ours = "failed", True
    try:
        stops.tell(partial(stop, driver))
        status = driver.run(None)
        if status == "done" and driver.work.shards.failed == len(driver.work.rows):
            raise RunFailed("no row could be scored. scores/ has each with its reason (the column `reason`)")
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
            driver.work.finish()
            write_summary(driver.work, folder, status)
            folder.state(status)
    return status


def stop(driver: Driver[ScoreWork]) -> None:
    """The first request stops the run cleanly, the second at once."""
    if driver.control.stopping:
        raise KeyboardInterrupt
    driver.control.stop()


def show_end(status: str, place: RunLocation, folder: RunFolder, options: argparse.Namespace, console: Console) -> None:
    """The last words of a run: its figures, where they are, and how to go on."""
    if summary := folder.read_summary():
        failed = f", {summary['failed']} of them without a score" if summary["failed"] else ""
        speaking.say(console, f"{summary['written']} of {summary['rows']} rows are written{failed}")
        for name, figures in summary["rewards"].items():
            if figures["count"]:
                speaking.say(console, f"{name}  mean {figures['mean']:.4f}  std {figures['std']:.4f}")
        speaking.say(console, f"report   {place.shown}/{write_scores_report(folder.path).name}")
    speaking.say(console, f"folder   {place.shown}  ({status})")
    if status == "stopped":
        given = [word for override in options.set for word in ("--set", override)]
        where = [] if options.executor == "ray" else ["--executor", options.executor]
        command = ["python", "-m", "pipelines.score", str(options.recipe), "--out", place.shown, *given, *where]
        speaking.say(console, f"continue with: {shlex.join([*command, '--resume'])}")


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
