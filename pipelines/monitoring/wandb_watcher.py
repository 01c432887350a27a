"""The watcher behind Weights & Biases: `monitor.wandb` names the project. An extra, which is asked for only then."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pipelines.monitoring.metric_table import scalars
from pipelines.monitoring.watchers import Watcher
from pipelines.recipe.errors import UserError
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord, StepRecord

FINISH_S = 60.0  # to hand over the last figures at the end


def check_wandb(project: str) -> None:
    """Raises UserError if the extra is missing, or nobody is logged in. At a terminal wandb asks for the key."""
    if find_spec("wandb") is None:
        raise UserError(
            f"monitor.wandb = {project!r}, but wandb is not installed: in the repository's root, pip install --editable '.[wandb]', or "
            "leave monitor.wandb empty"
        )
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        wandb.login()
    except wandb.Error as error:
        raise UserError(
            f"monitor.wandb = {project!r}: {error} Or set WANDB_API_KEY, or WANDB_MODE=offline, which keeps the figures in"
            " the run folder for `wandb sync`"
        ) from error


def run_id(folder: RunFolder) -> str:
    """The same for every start of a run, and for no other run."""
    return hashlib.sha256(f"{folder.path.name} {folder.read_state()['started']}".encode()).hexdigest()[:16]


class WeightsAndBiases(Watcher):
    """Logs to the run of wandb that an earlier start began, if there was one."""

    def __init__(self, project: str, name: str, recipe: Mapping[str, Any], folder: RunFolder, step: int) -> None:
        self.project, self.name, self.recipe, self.folder = project, name, recipe, folder
        self._seen = step  # a step that is replayed was logged already
        self._run: Any = None

    def open(self) -> None:
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=self.name,
            id=run_id(self.folder),
            resume="allow",
            dir=self.folder.path,
            config=dict(self.recipe),
            settings=wandb.Settings(silent=True, finish_timeout=FINISH_S, finish_timeout_raises=False),
        )
        self._run.define_metric("*", step_metric="step")  # held-out figures come later than their step
        self._seen = max(self._seen, int(self._run.summary.get("step", 0)))

    def step(self, record: StepRecord) -> None:
        if record.step > self._seen:
            self._seen = record.step
            self._run.log({"step": record.step, **scalars("step", record.line())})

    def heldout(self, record: HeldoutRecord) -> None:
        self._run.log({"step": record.step, **scalars("heldout", record.line())})

    def close(self) -> None:
        self._run.finish()
