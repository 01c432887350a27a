"""Back to a known state: what is trained as a checkpoint has it, at the start of a run and after its ranks were lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.storage.documents import Storage
from cluster.tasks import Failure, Handle
from pipelines.engine.checkpoint import Core, Found, newest
from pipelines.engine.tickets import CallFailed, Tickets
from pipelines.engine.work import Updates
from pipelines.recipe.errors import RunFailed
from pipelines.run_folder.events import CheckpointDamaged, PolicyLost, PolicyRestarted, Restored
from pipelines.run_folder.folder import RunFolder


@dataclass
class PolicyLosses:
    """How often the policy was lost, and whether to try once more.

    Restarts without a new step between them are in a row. What raises at the same step twice would raise for ever.
    """

    max_in_row: int
    _in_row: int = 0
    _furthest: int = 0
    _raised_at: set[int] = field(default_factory=set)

    def trained(self, step: int) -> None:
        """A step is complete."""
        if step > self._furthest:
            self._furthest, self._in_row = step, 0

    def add(self, doing: str, step: int, failure: Failure) -> None:
        """One more, in the work for `step`. Raises RunFailed if the run should end."""
        self._in_row += 1
        if self._in_row > self.max_in_row:
            raise RunFailed(
                f"the policy was lost {self._in_row} times without a new step, at last in the {doing} of step {step}: "
                f"{_said(failure)}"
            )
        if failure.cause == "raised":
            if step in self._raised_at:
                raise RunFailed(f"the {doing} of step {step} failed twice: {_said(failure)}")
            self._raised_at.add(step)


def _said(failure: Failure) -> str:
    """What was raised, without the calls that led to it: the event `policy_lost` has them."""
    return failure.message.strip().splitlines()[-1] if failure.cause == "raised" else failure.message


class Recovery:
    """Loads checkpoints into the gang; restarts its ranks when they are lost while it does."""

    def __init__(
        self, updates: Updates, tickets: Tickets, folder: RunFolder, root: str, note: Callable[[str], None]
    ) -> None:
        self.updates, self.tickets, self.folder, self.root, self.note = updates, tickets, folder, root, note
        self.executor = tickets.executor
        self.losses = PolicyLosses(updates.loop.max_failures_in_row)

    def start_from(self, found: Found | None) -> Core:
        """Brings the run to a checkpoint, or to the beginning. Raises RunFailed if that does not work."""
        step = found.manifest.step if found else 0
        while True:
            try:
                return self._load(found) if found else self.updates.begin()
            except CallFailed as failed:
                self.lost(failed.method, step, failed.failure)
                self.executor.restart(self.updates.gang)

    def start_again(self) -> Core:
        """Restarts the ranks and goes back to the newest whole checkpoint."""
        self.executor.restart(self.updates.gang)
        found, problems = newest(self.root)
        report_damage(self.folder, self.note, problems)
        core = self.start_from(found)
        self.folder.event(PolicyRestarted(step=core.step))
        return core

    def lost(self, doing: str, step: int, failure: Failure) -> None:
        """Writes down that the ranks were lost. Raises RunFailed if the run should end."""
        self.folder.event(PolicyLost(doing=doing, step=step, cause=failure.cause, message=failure.message))
        self.note(f"the policy was lost in the {doing} of step {step} ({failure.cause}): its ranks are started again")
        self.losses.add(doing, step, failure)

    def _load(self, found: Found) -> Core:
        began = time.monotonic()
        core = self.updates.restore(found, self._read(found))
        seconds = round(time.monotonic() - began, 3)
        self.folder.event(Restored(step=core.step, checkpoint=found.place, seconds=seconds))
        return core

    def _read(self, found: Found) -> Handle:
        """The gang's files of a checkpoint. Raises RunFailed if the storage worker cannot read them."""
        args, retries = (found.place, found.state_files()), self.updates.loop.lost_retries
        try:
            return self.tickets.now("storage", Storage.read, args, returns=2, retries=retries).payloads[0]
        except CallFailed as failed:
            raise RunFailed(f"the storage worker could not read: {failed.failure.message}") from failed


def report_damage(folder: RunFolder, note: Callable[[str], None], problems: list[str]) -> None:
    """Says which checkpoints were passed over, and why."""
    for problem in problems:
        folder.event(CheckpointDamaged(problem=problem))
        note(f"warning: a checkpoint is passed over: {problem}")
