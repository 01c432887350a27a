"""The main job: draw images of prompts, let a frozen judge score them, make the better ones more likely; again and again.

    python -m pipelines.train RECIPE [--out DIR] [--set key=value ...] [--executor ray|local] [--resume [CHECKPOINT]]

Exit codes: 0 done, 2 a user's mistake, 1 anything else, 130 stopped (Ctrl-C, SIGTERM, `python -m cluster stop`) with a
checkpoint that --resume continues.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from cluster import speaking
from cluster.placement import PlacementError
from cluster.storage import folders
from cluster.tasks import WorkerMistakeError, WorkerStartError
from pipelines import checks, workers
from pipelines.arguments import AUTO, parse_train
from pipelines.captions import check_captions
from pipelines.checkers import check_checker
from pipelines.checkpoints import Found, Inputs, changes_since, named, newest, sha256_of, step_of
from pipelines.config import Recipe, UserError, dump_recipe, load_recipe
from pipelines.display import Display, heldout_table
from pipelines.driver import Driver
from pipelines.evaluation import HeldoutPlan
from pipelines.heldout import summarise
from pipelines.lease import Lease, PlaceTaken
from pipelines.monitoring.monitors import check_monitors, monitors
from pipelines.monitoring.watchers import Watchers
from pipelines.place import Place, check_writable
from pipelines.prompts import PromptOrder, load_prompt_sets
from pipelines.provenance import provenance
from pipelines.recipe_changes import Changes
from pipelines.recovery import Recovery, RunFailed, report_damage
from pipelines.report import write_report
from pipelines.run_folder import RunFolder
from pipelines.shipping import check_out_of_job
from pipelines.starting import Starting
from pipelines.startup import check_packages

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_train(arguments)
    options.command = shlex.join(["python", "-m", "pipelines.train", *arguments])
    try:
        check_packages()
        return train(options, speaking.console())
    except (UserError, PlacementError, WorkerMistakeError) as error:
        return speaking.fail("error", error, 2)
    except (
        WorkerStartError,
        RunFailed,
        PlaceTaken,
        OSError,
    ) as error:  # OSError: such as a full disk under the run folder
        return speaking.fail("failed", error, 1)
    except KeyboardInterrupt:
        return 130


def train(options: argparse.Namespace, console: Console) -> int:
    """One run from recipe to report."""
    check_out_of_job(options.out)
    recipe = load_recipe(options.recipe, options.set)
    check_monitors(recipe)
    order, heldout, inputs = load_data(recipe, options.executor)
    out = options.out
    if out is None:
        out = f"runs/{options.recipe.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    place = Place(out)
    root = recipe.loop.checkpoints or place.checkpoints
    say = partial(speaking.say, console)
    with leases(place, root, options.take_over, say) as held, place:
        check_writable(root, "loop.checkpoints")
        found, problems = choose_checkpoint(options.resume, place, root)
        changes = changes_since(found, recipe, inputs) if found else {}
        if options.resume == AUTO and not found:
            speaking.say(console, f"no checkpoint in {root} to go on from: the run begins at step 0")
        with Starting(console) as starting:
            run_name = f"{place.name}-{os.getpid()}"
            example = heldout.example()
            executor = workers.make_executor(recipe, options.executor, run_name, place.path, starting, example)
            executor.start()
        try:
            folder = open_folder(place.path, recipe, found, changes)
            folder.event("started", **provenance(options.command, executor))
            display = Display(recipe.loop.steps, recipe.run.name or place.name)
            step = found.manifest.step if found else 0
            chosen = monitors(recipe, folder, options.executor == "ray", step)
            with Watchers(display, *chosen, event=folder.event) as watchers:
                place.watch(watchers.note)
                report_damage(folder, watchers.note, problems)
                recovery = Recovery(recipe, executor, folder, root, watchers.note, inputs)
                driver = Driver(recipe, order, heldout, executor, folder, watchers, recovery, place.final, held)
                status = run(driver, found, folder)
        finally:
            executor.close()
        show_end(status, place, folder, options, console)
    return {"done": 0, "stopped": 130}.get(status, 1)


@contextmanager
def leases(place: Place, root: str, take_over: bool, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Within it this run alone writes in its folder and its place of checkpoints; what it gives raises PlaceTaken once it does not."""
    places = {place.final: (place.shown, place.key)}
    if not f"{root}/".startswith(f"{place.final}/"):
        places[root] = (root, "loop.checkpoints")
    with ExitStack() as stack:
        held = []
        for at, (shown, key) in places.items():
            check_writable(at, key)
            held.append(stack.enter_context(Lease(at, shown, take_over, say)))

        def check() -> None:
            for lease in held:
                lease.check()

        yield check


def load_data(recipe: Recipe, executor: str) -> tuple[PromptOrder, HeldoutPlan, Inputs]:
    """The prompts in their order, the held-out ones, and the hashes of what the recipe names; all of it checked. Raises UserError."""
    checks.check_models(recipe)
    checks.check_start(recipe, executor)
    check_checker(recipe)
    prompts, heldout_prompts = load_prompt_sets(recipe.data)
    check_captions(recipe, prompts.sample(), heldout_prompts)
    order = PromptOrder(prompts, recipe.run.seed, recipe.rollout.prompts_per_step, recipe.data.mix)
    heldout = HeldoutPlan(heldout_prompts, recipe.heldout, recipe.loop.steps)
    begin = checks.init_adapter(recipe)
    return order, heldout, Inputs(sha256_of(prompts), sha256_of(heldout_prompts), begin.sha256 if begin else "")


def choose_checkpoint(resume: str | None, place: Place, root: str) -> tuple[Found | None, list[str]]:
    """Where the run begins: the checkpoint (None: version 0), and what was wrong with newer ones. Raises UserError.

    Without --resume neither the folder nor the place of checkpoints may hold a run.
    """
    if resume is None:
        RunFolder.check_new(place.path, place.shown)
        if any(step_of(there) is not None for there in folders(root)):
            raise UserError(f"{root} holds checkpoints of a run: continue it with --resume, or give another place")
        return None, []
    if resume != AUTO:
        return named(resume), []
    found, problems = newest(root)
    if found is None and not RunFolder.holds_run(place.path):
        place.check_empty()
    return found, problems


def open_folder(path: Path, recipe: Recipe, found: Found | None, changes: Changes) -> RunFolder:
    """The run folder, begun if there is none yet. Its recipe.toml is what the run has from here on; earlier ones are kept."""
    if RunFolder.holds_run(path):
        folder = RunFolder.open(path)
    else:
        folder = RunFolder.create(path, found.recipe_toml() if found else dump_recipe(recipe))
    earlier = folder.follow(dump_recipe(recipe))
    if found and changes:
        folder.event("recipe_changed", step=found.manifest.step, changed=changes, earlier=earlier)
    return folder


def show_end(status: str, place: Place, folder: RunFolder, options: argparse.Namespace, console: Console) -> None:
    """The last words of a run: its figures, where they are, and how to go on."""
    try:
        report = f"{place.shown}/{write_report(folder.path).name}"
        if status == "done":
            console.print(heldout_table(folder.read_heldout()))
    except Exception as error:  # the run has ended as it has, whatever cannot be shown of it
        with suppress(OSError):
            folder.event("report_failed", message=repr(error))
        report = f"could not be written: {error!r}; python -m pipelines.report {shlex.quote(place.shown)} tries again"
    speaking.say(console, f"report   {report}\nsummary  {place.shown}/summary.json\nfolder   {place.shown}  ({status})")
    if status == "stopped":
        speaking.say(console, f"continue with: {command_to_continue(options, place)}")


def command_to_continue(options: argparse.Namespace, place: Place) -> str:
    """What to paste into a shell to go on with a run that was stopped."""
    given = [word for override in options.set for word in ("--set", override)]
    if options.executor != "ray":
        given += ["--executor", options.executor]
    return shlex.join(
        ["python", "-m", "pipelines.train", str(options.recipe), "--out", place.shown, *given, "--resume"]
    )


def run(driver: Driver, found: Found | None, folder: RunFolder) -> str:
    """Drives the run to its end; whatever the end, the folder says how it ended and what was reached."""
    folder.state("running")
    if found:
        folder.event("resumed", step=found.manifest.step, checkpoint=found.place)
    previous = {number: signal.signal(number, lambda *_: interrupt(driver)) for number in SIGNALS}
    status, ours = "failed", True
    try:
        status = driver.run(found)
        if status == "done" and (problem := driver.nothing_done()):
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
        for number, handler in previous.items():
            signal.signal(number, handler)
        if ours:
            write_summary(driver, folder, status)
            folder.state(status)
    return status


def interrupt(driver: Driver) -> None:
    """The first Ctrl-C (or SIGTERM) stops the run cleanly, the second at once."""
    if driver.stopping:
        raise KeyboardInterrupt
    driver.stop()


def write_summary(driver: Driver, folder: RunFolder, status: str) -> None:
    """summary.json: the digest, how far and how fast, and the held-out figures."""
    log = driver.log
    seconds = log.seconds()
    folder.summary(
        {
            "status": status,
            "digest": log.digest,
            "reproducible": driver.recipe.loop.order == "strict",
            "digest_since": log.digest_since,
            "changes": log.changes,
            "steps": log.step,
            "seconds": seconds,
            "images": log.images,
            "images_per_s": log.images / seconds,
            "quarantined": log.quarantined,
            "retries": dict(log.retries),
            "policy_restarts": log.policy_restarts,
            "checkpoint": driver.checkpointer.saved_step,
            "best_checkpoint": driver.checkpointer.best_step(),
            "heldout": summarise(folder.read_heldout()),
            "notes": list(driver.recipe.run.notes),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
