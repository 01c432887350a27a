"""Makes the checkpoints of a run, one at a time: the policy's snapshot, its writing beside the training, the end of older ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from actors.policy.actor import PolicyActor
from cluster.storage import documents
from cluster.storage.documents import Storage
from cluster.storage.files import folders
from cluster.tasks import Outcome
from pipelines.engine.checkpoint import RECIPE, RECORDS, Inputs, Manifest, place_of, step_of
from pipelines.engine.tickets import Take, Tickets
from pipelines.evaluation.comparison import best
from pipelines.recipe.changes import recipe_sha256
from pipelines.recipe.load import dump_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import Checkpoint, CheckpointFailed, CheckpointsNotRemoved
from pipelines.run_folder.folder import RunFolder


class Checkpointer:
    """Who drives it hears of each outcome first (`then`), and hands it on.

    The ranks are held up for the snapshot only: bytes in the object store, which a storage worker writes meanwhile.
    """

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        folder: RunFolder,
        root: str,
        tickets: Tickets,
    ) -> None:
        self.recipe, self.inputs, self.folder, self.root = recipe, inputs, folder, root
        self.tickets = tickets
        self.saved_step = 0
        self.manifest: Manifest | None = None  # of the checkpoint that is being made
        self.writing = False  # its bytes are with the storage worker
        self.overdue = False  # one was due while another was being made
        self._present: set[int] = set()  # steps with a folder
        self._whole: set[int] = set()  # those whose checkpoint counts
        self._records: dict[str, bytes] = {}
        self._unevaluated: Collection[int] = ()
        self._snapshot_s = 0.0

    @property
    def saving(self) -> bool:
        """A checkpoint is being made."""
        return self.manifest is not None

    def go_on_from(self, step: int) -> None:
        """The run begins at the checkpoint of this step (0: at none). What is newer was passed over, and will be made again."""
        self.saved_step, self.overdue = step, False
        places = {number: place for place in folders(self.root) if (number := step_of(place)) is not None}
        self._present = set(places)
        self._whole = {number for number, place in places.items() if number <= step and documents.has_manifest(place)}

    def due(self, step: int) -> bool:
        """Whether a checkpoint follows this step: every so many, and the last. While one is being made it becomes overdue."""
        every, last = self.recipe.loop.checkpoint_every, self.recipe.loop.steps
        self.overdue = self.overdue or step % every == 0 or step == last
        return self.overdue and not self.saving

    def begin(
        self,
        adapters: Mapping[int, tuple[str, Any]],
        evaluated: Collection[int],
        unevaluated: Collection[int],
        then: Take,
        **counters: Any,
    ) -> None:
        """Asks the ranks for a snapshot of the present, whose outcome is for `write`.

        adapters: version -> (sha256, handle); counters: step, digest and so on, as in the manifest; unevaluated: versions
        whose evaluation is still to come, and which may be the best.
        """
        policy = self.recipe.policy
        self.manifest = Manifest(
            **counters,
            adapters={str(version): sha256 for version, (sha256, _) in adapters.items()},
            evaluated=sorted(evaluated),
            ranks=policy.ranks,
            zero_stage=policy.zero_stage,
            seed=self.recipe.run.seed,
            recipe_sha256=recipe_sha256(self.recipe),
            **asdict(self.inputs),
        )
        self._records = {RECORDS + name: content for name, content in self.folder.records().items()}
        self._records[RECIPE] = dump_recipe(self.recipe).encode()
        self._unevaluated = unevaluated
        self.overdue = False
        handles = tuple(handle for _, handle in adapters.values())
        self.tickets.call("policy", PolicyActor.snapshot, handles, then, returns=2)

    def write(self, snapshot: Outcome, then: Take) -> None:
        """The bytes of the policy are there: they are written, whose outcome is for `written`."""
        assert self.manifest is not None
        self.writing = True
        self._snapshot_s = round(snapshot.value["seconds"], 4)
        place = place_of(self.root, self.manifest.step)
        args = (place, asdict(self.manifest), self._records, snapshot.payloads[0])
        retries = self.recipe.loop.lost_retries
        self.tickets.call("storage", Storage.write, args, then, retries=retries, survives_era=True)

    def written(self, outcome: Outcome) -> str | None:
        """The checkpoint is whole; or the text that says why it could not be written, older ones being as they were."""
        assert self.manifest is not None
        if outcome.failure:
            step = self.manifest.step
            self._give_up(outcome.failure.message)
            return f"the checkpoint of step {step} could not be written: {outcome.failure.message.strip().splitlines()[-1]}"
        step = self.saved_step = self.manifest.step
        self._whole.add(step)
        figures = {"bytes": outcome.value["bytes"], "write_s": round(outcome.value["seconds"], 4)}
        path = place_of(self.root, step)
        self.folder.event(Checkpoint(step=step, path=path, snapshot_s=self._snapshot_s, **figures))
        self._done()
        gone = {other for other in self._present | self._whole if other < step} - self._kept(step)
        self._present -= gone
        self._whole -= gone
        if gone:
            places = [place_of(self.root, other) for other in sorted(gone)]
            self.tickets.call("storage", Storage.remove, (places,), partial(self._removed, step), survives_era=True)
        return None

    def _removed(self, step: int, outcome: Outcome) -> None:
        """Checkpoints older than this step are gone, or stay: that does no harm."""
        if outcome.failure:
            self.folder.event(CheckpointsNotRemoved(step=step, message=outcome.failure.message))

    def best_step(self) -> int | None:
        """The whole checkpoint with the best held-out figure, without extra guidance; None before any was evaluated."""
        scale = self.recipe.heldout.guidance_scales[0]
        records = self.folder.read_heldout()
        found = best([record for record in records if record.step in self._whole and record.guidance == scale])
        return found.step if found else None

    def let_go(self) -> None:
        """A snapshot that was asked for will not be taken any more: another one is due."""
        if self.saving and not self.writing:
            self._give_up("its snapshot was let go")
            self.overdue = True

    def _give_up(self, message: str) -> None:
        assert self.manifest is not None
        self.folder.event(CheckpointFailed(step=self.manifest.step, message=message))
        self._done()

    def _done(self) -> None:
        self.manifest, self.writing = None, False

    def _kept(self, step: int) -> set[int]:
        """The newest ones, the one with the best held-out figure, and those that may yet become the best."""
        ours = sorted(other for other in self._whole if other <= step)
        kept = set(ours[-self.recipe.loop.keep_checkpoints :])
        if not self.recipe.loop.keep_best:
            return kept
        best_step = self.best_step()
        return kept | ({best_step} if best_step is not None else set()) | (set(ours) & set(self._unevaluated))
