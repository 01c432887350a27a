"""After a run's last step: has it anything to show, its summary, its report, and the last words at the terminal."""

from __future__ import annotations

import argparse
import shlex
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from cluster import speaking
from cluster.stops import STOPPED
from pipelines.beginning import open_folder
from pipelines.checkpoints import Found
from pipelines.config import Recipe
from pipelines.display import heldout_table
from pipelines.driver import Driver
from pipelines.heldout import summarise
from pipelines.place import Place
from pipelines.report import write_report
from pipelines.run_folder import RunFolder
from pipelines.shipping import in_job

STOPPED_AT_THE_START = "stopped before the first step"
REASONS = "every group was quarantined. events.jsonl has each with its reason (quarantine)"


def nothing_done(driver: Driver) -> str | None:
    """Why a run that came to its end has nothing to show: no image was trained on, or an evaluation has none. None if it has."""
    if driver.log.images == 0:
        return f"no image was trained on: {REASONS}"
    evaluated = {record["step"] for record in driver.folder.read_heldout()}
    for version in driver.heldout.versions():
        if version in driver.evaluated and version not in evaluated:
            return f"no held-out image of step {version} could be judged: {REASONS}"
    return None


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


def stopped_at_the_start(path: Path, recipe: Recipe, found: Found | None) -> RunFolder:
    """The run folder of a run that was stopped while its workers started. One that was there keeps the recipe that it had."""
    folder = RunFolder(path) if RunFolder.holds_run(path) else open_folder(path, recipe, found, {})
    folder.event("stopped", message=STOPPED_AT_THE_START)
    folder.state("stopped", STOPPED_AT_THE_START)
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
    summary = f"\nsummary  {place.shown}/summary.json" if folder.read_summary() else ""
    speaking.say(console, f"report   {report}{summary}\nfolder   {place.shown}  ({status})")
    if status in ("stopped", STOPPED_AT_THE_START):
        speaking.say(console, f"continue with: {command_to_continue(options, place)}")
        if in_job():  # the last line is what Ray's dashboard and `ray job list` show of such a job
            speaking.say(console, f"stopped on request (exit code {STOPPED}; Ray lists such a job as FAILED)")


def command_to_continue(options: argparse.Namespace, place: Place) -> str:
    """What to paste into a shell to go on with a run that was stopped."""
    given = [word for override in options.set for word in ("--set", override)]
    if options.executor != "ray":
        given += ["--executor", options.executor]
    return shlex.join(
        ["python", "-m", "pipelines.train", str(options.recipe), "--out", place.shown, *given, "--resume"]
    )
