"""Back to a known state: the policy as a checkpoint has it, at the start of a run and after its ranks were lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors.policy.actor import PolicyActor
from cluster.storage.documents import Storage
from cluster.tasks import Failure, Outcome
from pipelines.engine.checkpoint import Found, Inputs, Manifest, changes_since, newest
from pipelines.engine.digest import FIRST, changed_digest
from pipelines.engine.tickets import CallFailed, Tickets
from pipelines.recipe.changes import Changes, evaluated_anew, in_words, recorded
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import CheckpointDamaged, DigestAnew, PolicyLost, PolicyRestarted, Restored
from pipelines.run_folder.folder import RunFolder

NO_INPUTS = Inputs()


@dataclass(frozen=True)
class Start:
    """From where a run goes on: version 0, or a checkpoint. `adapters`: policy version -> (sha256, handle)."""

    adapters: dict[int, tuple[str, Any]]
    step: int = 0
    digest: str = FIRST
    digest_since: int = 0
    images: int = 0
    seconds: float = 0.0
    quarantined: int = 0
    evaluated: tuple[int, ...] = ()
    changes: tuple[dict[str, Any], ...] = ()


@dataclass
class PolicyLosses:
    """How often the policy was lost, and whether to try once more.

    Restarts without a new step between them are in a row. What raises at the same step twice would raise for ever.
    """

    max_in_row: int
    total: int = 0
    _in_row: int = 0
    _furthest: int = 0
    _raised_at: set[int] = field(default_factory=set)

    def trained(self, step: int) -> None:
        """A step is complete."""
        if step > self._furthest:
            self._furthest, self._in_row = step, 0

    def add(self, doing: str, step: int, failure: Failure) -> None:
        """One more, in the work for `step`. Raises RunFailed if the run should end."""
        self.total += 1
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
    """Loads checkpoints into the policy; restarts its ranks when they are lost while it does."""

    def __init__(
        self,
        recipe: Recipe,
        tickets: Tickets,
        folder: RunFolder,
        root: str,
        note: Callable[[str], None],
        inputs: Inputs = NO_INPUTS,
    ) -> None:
        self.recipe, self.tickets, self.folder, self.root, self.note = recipe, tickets, folder, root, note
        self.executor, self.inputs = tickets.executor, inputs
        self.losses = PolicyLosses(recipe.loop.max_failures_in_row)

    def start_from(self, found: Found | None) -> Start:
        """Brings policy and run folder to a checkpoint, or to the beginning. Raises RunFailed if that does not work."""
        step = found.manifest.step if found else 0
        while True:
            try:
                return self._load(found) if found else self._first()
            except CallFailed as failed:
                self.lost(failed.method, step, failed.failure)
                self.executor.restart("policy")

    def start_again(self) -> Start:
        """Restarts the policy's ranks and goes back to the newest whole checkpoint."""
        self.executor.restart("policy")
        found, problems = newest(self.root)
        report_damage(self.folder, self.note, problems)
        start = self.start_from(found)
        self.folder.event(PolicyRestarted(step=start.step))
        return start

    def lost(self, doing: str, step: int, failure: Failure) -> None:
        """Writes down that the policy was lost. Raises RunFailed if the run should end."""
        self.folder.event(PolicyLost(doing=doing, step=step, cause=failure.cause, message=failure.message))
        self.note(f"the policy was lost in the {doing} of step {step} ({failure.cause}): its ranks are started again")
        self.losses.add(doing, step, failure)

    def _first(self) -> Start:
        self.folder.restore({})
        return Start(self._first_version())

    def _first_version(self) -> dict[int, tuple[str, Any]]:
        """Version 0, of ranks that have loaded nothing yet: version -> (sha256, handle)."""
        outcome = self.tickets.now("policy", PolicyActor.export, (0,), returns=2)
        return {0: (outcome.value["sha256"], outcome.payloads[0])}

    def _load(self, found: Found) -> Start:
        began = time.monotonic()
        manifest = found.manifest
        changes = recorded(changes_since(found, self.recipe, self.inputs), self.recipe)
        first = self._first_version() if evaluated_anew(changes, self.recipe) else {}
        files = self._read(found).payloads[0]
        self.tickets.now("policy", PolicyActor.load, (files,))
        adapters = dict(first)
        for version, sha256 in manifest.adapters.items():
            outcome = self.tickets.now("policy", PolicyActor.load_adapter, (files, int(version)), returns=2)
            if outcome.value["sha256"] != sha256:
                raise RunFailed(f"{found.place}: adapter {version} does not have the hash that the manifest gives")
            adapters[int(version)] = (sha256, outcome.payloads[0])
        evaluated = set(manifest.evaluated)
        self.folder.restore(found.records())
        if "loop.steps" in changes:
            self.folder.retag_heldout("after", "during")
            evaluated.discard(self.recipe.loop.steps)
        if first:
            self.folder.begin_heldout(f"heldout-until-{manifest.step:06d}.jsonl")
            evaluated = set(range(manifest.step)) - adapters.keys()  # what cannot be drawn any more
        seconds = round(time.monotonic() - began, 3)
        self.folder.event(Restored(step=manifest.step, checkpoint=found.place, seconds=seconds))
        digest, since = self._digest_from(manifest, changes)
        return Start(
            adapters,
            manifest.step,
            digest,
            since,
            manifest.images,
            manifest.seconds,
            manifest.quarantined,
            tuple(sorted(evaluated)),
            (*manifest.changes, *([{"step": manifest.step, "changed": changes}] if changes else [])),
        )

    def _digest_from(self, manifest: Manifest, changes: Changes) -> tuple[str, int]:
        """The digest that the next step is chained to, and since when the chain runs. Says so if either is new."""
        step, policy = manifest.step, self.recipe.policy
        digest, since = manifest.digest, manifest.digest_since
        if (manifest.ranks, manifest.zero_stage) != (policy.ranks, policy.zero_stage):
            digest, since = FIRST, step
            was = {"ranks": manifest.ranks, "zero_stage": manifest.zero_stage}
            self.folder.event(DigestAnew(step=since, was=was, ranks=policy.ranks, zero_stage=policy.zero_stage))
            self.note(
                f"the digest starts anew after step {since}: the checkpoint is of {manifest.ranks} ranks at ZeRO stage "
                f"{manifest.zero_stage}, this run has {policy.ranks} at stage {policy.zero_stage}"
            )
        if changes:
            digest = changed_digest(digest, step, changes)
            self.note(f"the recipe changes after step {step}, and with it the digest: {in_words(changes)}")
        return digest, since

    def _read(self, found: Found) -> Outcome:
        """The policy's files of a checkpoint. Raises RunFailed if the storage worker cannot read them."""
        args, retries = (found.place, found.state_files()), self.recipe.loop.lost_retries
        try:
            return self.tickets.now("storage", Storage.read, args, returns=2, retries=retries)
        except CallFailed as failed:
            raise RunFailed(f"the storage worker could not read: {failed.failure.message}") from failed


def report_damage(folder: RunFolder, note: Callable[[str], None], problems: list[str]) -> None:
    """Says which checkpoints were passed over, and why."""
    for problem in problems:
        folder.event(CheckpointDamaged(problem=problem))
        note(f"warning: a checkpoint is passed over: {problem}")
