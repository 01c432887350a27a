"""After a run's last step: has it anything to show, and its summary."""

from __future__ import annotations

from pathlib import Path

from pipelines.engine.checkpoint import Found
from pipelines.engine.driver import Driver
from pipelines.evaluation.comparison import summarise
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import Stopped
from pipelines.run_folder.folder import RunFolder
from pipelines.training.beginning import open_folder
from pipelines.training.work import TrainWork

STOPPED_AT_THE_START = "stopped before the first step"
REASONS = "every group was quarantined. events.jsonl has each with its reason (quarantine)"


def nothing_done(driver: Driver[TrainWork]) -> str | None:
    """Why a run that came to its end has nothing to show: no image was trained on, or an evaluation has none. None if it has."""
    run = driver.work.run
    if run.log.images == 0:
        return f"no image was trained on: {REASONS}"
    evaluated = {record.step for record in run.folder.read_heldout()}
    for version in run.heldout.versions():
        if version in run.era.evaluated and version not in evaluated:
            return f"no held-out image of step {version} could be judged: {REASONS}"
    return None


def write_summary(driver: Driver[TrainWork], folder: RunFolder, status: str) -> None:
    """summary.json: the digest, how far and how fast, and the held-out figures."""
    run, core, health = driver.work.run, driver.core, driver.health
    log = run.log
    seconds = log.seconds()
    folder.summary(
        {
            "status": status,
            "digest": core.digest,
            "reproducible": run.recipe.loop.order == "strict",
            "digest_since": core.digest_since,
            "changes": core.changes,
            "steps": log.step,
            "seconds": seconds,
            "images": log.images,
            "images_per_s": log.images / seconds,
            "quarantined": log.quarantined,
            "retries": dict(health.retries),
            "policy_restarts": health.gang_losses,
            "checkpoint": driver.checkpointer.saved_step,
            "best_checkpoint": driver.checkpointer.best_step(),
            "heldout": summarise(folder.read_heldout()),
            "notes": list(run.recipe.run.notes),
        }
    )


def stopped_at_the_start(path: Path, recipe: Recipe, found: Found | None) -> RunFolder:
    """The run folder of a run that was stopped while its workers started. One that was there keeps the recipe that it had."""
    folder = RunFolder(path) if RunFolder.holds_run(path) else open_folder(path, recipe, found, {})
    folder.event(Stopped(message=STOPPED_AT_THE_START))
    folder.state("stopped", STOPPED_AT_THE_START)
    return folder
