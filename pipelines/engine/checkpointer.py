"""Makes the checkpoints of a run, one at a time: the gang's snapshot, its writing beside the training, the end of older ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial

from cluster.storage import documents
from cluster.storage.documents import Storage
from cluster.storage.files import folders
from cluster.tasks import Failure, Outcome
from pipelines.engine.checkpoint import RECIPE, RECORDS, Core, Manifest, place_of, step_of
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Updates
from pipelines.run_folder.events import Checkpoint, CheckpointFailed, CheckpointsNotRemoved
from pipelines.run_folder.folder import RunFolder


class Checkpointer:
    """The ranks are held up for the snapshot only: bytes in the object store, which a storage worker writes meanwhile.

    `lost` is called when ranks were lost in a snapshot: of which step, and why. `failed` is called with why one could not be written.
    """

    def __init__(
        self,
        updates: Updates,
        folder: RunFolder,
        root: str,
        tickets: Tickets,
        lost: Callable[[str, int, Failure], None],
        failed: Callable[[str], None],
    ) -> None:
        self.updates, self.folder, self.root, self.tickets = updates, folder, root, tickets
        self.lost, self.failed = lost, failed
        self.saved_step = 0
        self.manifest: Manifest | None = None  # of the checkpoint that is being made
        self.writing = False  # its bytes are with the storage worker
        self.overdue = False  # one was due while another was being made
        self._present: set[int] = set()  # steps with a folder
        self._whole: set[int] = set()  # those whose checkpoint counts
        self._records: dict[str, bytes] = {}
        self._unjudged: Collection[int] = ()
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
        every, last = self.updates.loop.checkpoint_every, self.updates.loop.steps
        self.overdue = self.overdue or step % every == 0 or step == last
        return self.overdue and not self.saving

    def begin(self, core: Core) -> None:
        """Asks the ranks for a snapshot of the present, which is then written."""
        run = self.updates.identity()
        self.manifest = Manifest(
            step=core.step,
            digest=core.digest,
            digest_since=core.digest_since,
            changes=list(core.changes),
            recipe_sha256=run.recipe_sha256,
            inputs=run.inputs,
            work=self.updates.state(),
        )
        self._records = {RECORDS + name: content for name, content in self.folder.records().items()}
        self._records[RECIPE] = run.recipe_toml.encode()
        self._unjudged = self.updates.unjudged()
        self.overdue = False
        call = self.updates.snapshot()
        self.tickets.call(self.updates.gang, call.method, call.args, self._write, returns=call.returns)

    def _write(self, snapshot: Outcome) -> None:
        """The bytes of the gang are there: they are written."""
        assert self.manifest is not None
        if snapshot.failure:
            return self.lost("snapshot", self.manifest.step, snapshot.failure)
        self.writing = True
        self.tickets.health.checkpoint["snapshot_s"] = snapshot.value["seconds"]
        self._snapshot_s = round(snapshot.value["seconds"], 4)
        place = place_of(self.root, self.manifest.step)
        args = (place, asdict(self.manifest), self._records, snapshot.payloads[0])
        retries = self.updates.loop.lost_retries
        self.tickets.call("storage", Storage.write, args, self._written, retries=retries, survives_era=True)

    def _written(self, outcome: Outcome) -> None:
        """The checkpoint is whole; or it could not be written, older ones being as they were."""
        assert self.manifest is not None
        step = self.manifest.step
        if outcome.failure:
            self.tickets.health.failed(outcome.failure)
            self._give_up(outcome.failure.message)
            reason = outcome.failure.message.strip().splitlines()[-1]
            return self.failed(f"the checkpoint of step {step} could not be written: {reason}")
        self.saved_step = step
        self._whole.add(step)
        self.tickets.health.checkpointed(step, outcome.value)
        figures = {"bytes": outcome.value["bytes"], "write_s": round(outcome.value["seconds"], 4)}
        path = place_of(self.root, step)
        self.folder.event(Checkpoint(step=step, path=path, snapshot_s=self._snapshot_s, **figures))
        self._done()
        self._remove_older(step)

    def _remove_older(self, step: int) -> None:
        """Those that a whole one of this step replaces."""
        gone = {other for other in self._present | self._whole if other < step} - self._kept(step)
        self._present -= gone
        self._whole -= gone
        if gone:
            places = [place_of(self.root, other) for other in sorted(gone)]
            self.tickets.call("storage", Storage.remove, (places,), partial(self._removed, step), survives_era=True)

    def _removed(self, step: int, outcome: Outcome) -> None:
        """Checkpoints older than this step are gone, or stay: that does no harm."""
        if outcome.failure:
            self.folder.event(CheckpointsNotRemoved(step=step, message=outcome.failure.message))

    def best_step(self) -> int | None:
        """The best of the whole checkpoints; None before any was judged."""
        return self.updates.best(self._whole)

    def let_go(self) -> None:
        """A snapshot that was asked for will not be taken any more: another one is due."""
        if self.saving and not self.writing:
            self._give_up("its snapshot was dropped")
            self.overdue = True

    def _give_up(self, message: str) -> None:
        assert self.manifest is not None
        self.folder.event(CheckpointFailed(step=self.manifest.step, message=message))
        self._done()

    def _done(self) -> None:
        self.manifest, self.writing = None, False

    def _kept(self, step: int) -> set[int]:
        """The newest ones, the best one, and those that may yet become the best."""
        ours = sorted(other for other in self._whole if other <= step)
        kept = set(ours[-self.updates.loop.keep_checkpoints :])
        if not self.updates.loop.keep_best:
            return kept
        best_step = self.best_step()
        return kept | ({best_step} if best_step is not None else set()) | (set(ours) & set(self._unjudged))
