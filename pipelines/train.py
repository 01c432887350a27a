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
from functools import partial

from rich.console import Console

from cluster import speaking
from cluster.placement import PlacementError
from cluster.stops import STOPPED, nothing, stops
from cluster.tasks import WorkerMistakeError, WorkerStartError
from pipelines import workers
from pipelines.arguments import AUTO, parse_train
from pipelines.beginning import choose_checkpoint, leases, load_data, open_folder, out_of
from pipelines.checkpoints import Found, changes_since
from pipelines.config import UserError, load_recipe
from pipelines.display import Display
from pipelines.driver import Driver
from pipelines.ending import STOPPED_AT_THE_START, nothing_done, show_end, stopped_at_the_start, write_summary
from pipelines.lease import PlaceTaken
from pipelines.monitoring.monitors import check_monitors, monitors
from pipelines.monitoring.watchers import Watchers
from pipelines.place import Place, check_writable
from pipelines.provenance import provenance
from pipelines.recovery import RunFailed, report_damage
from pipelines.roster import Roster
from pipelines.run_folder import RunFolder
from pipelines.shipping import check_out_of_job
from pipelines.starting import Starting


def program(pools: workers.MakePools) -> Callable[..., int]:
    """The main job with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    @speaking.exit_codes(
        mistake=(UserError, PlacementError, WorkerMistakeError),
        failure=(WorkerStartError, RunFailed, PlaceTaken, OSError),  # OSError: a full disk under the run folder
    )
    def main(arguments: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        options = parse_train(arguments)
        options.command = shlex.join(["python", "-m", "pipelines.train", *arguments])
        return train(options, pools, speaking.console())

    return main


def train(options: argparse.Namespace, pools: workers.MakePools, console: Console) -> int:
    """One run from recipe to report."""
    check_out_of_job(options.out)
    recipe = load_recipe(options.recipe, options.set)
    check_monitors(recipe)
    order, heldout, inputs = load_data(recipe, options.executor)
    place = Place(out_of(options))
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
                executor = workers.make_executor(specs, recipe.cluster, options.executor, name, place.path, starting)
                executor.start()
            try:
                roster = Roster(recipe)
                roster.meet(executor.introductions())
                if roster.problem and roster.exact:
                    raise UserError(roster.problem)
                say(str(roster))
                folder = open_folder(place.path, recipe, found, changes)
                roster.write(folder)
                folder.event("started", **provenance(options.command, roster))
                display = Display(recipe.loop.steps, recipe.run.name or place.name)
                step = found.manifest.step if found else 0
                chosen = monitors(recipe, folder, options.executor == "ray", step)
                with Watchers(display, *chosen, event=folder.event) as watchers:
                    place.watch(watchers.note)
                    report_damage(folder, watchers.note, problems)
                    driver = Driver(
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


def run(driver: Driver, found: Found | None, folder: RunFolder) -> str:
    """Drives the run to its end; whatever the end, the folder says how it ended and what was reached."""
    folder.state("running")
    if found:
        folder.event("resumed", step=found.manifest.step, checkpoint=found.place)
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
        folder.event("run_failed", message=str(error))
        driver.watchers.note(f"the run failed: {error}")
    except PlaceTaken:
        ours = False
        raise
    except BaseException as error:
        folder.event("run_failed", message=repr(error))
        raise
    finally:
        stops.tell(nothing)
        if ours:
            write_summary(driver, folder, status)
            folder.state(status)
    return status


def stop(driver: Driver) -> None:
    """The first request stops the run cleanly, the second at once."""
    if driver.stopping:
        raise KeyboardInterrupt
    driver.stop()


main = program(workers.pool_specs)

if __name__ == "__main__":
    sys.exit(main())
