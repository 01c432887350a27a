"""The driver: carries the loop's decisions to the workers and what comes of them back to the loop, whatever the program.

It touches small dicts and handles only: what workers make stays where it was made. It knows neither Ray nor torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from cluster.tasks import Failure, Outcome
from pipelines.engine.checkpoint import Core, Found
from pipelines.engine.checkpointer import Checkpointer
from pipelines.engine.loop import Loop
from pipelines.engine.messages import Abort, Ask, Decision, Done, Failed, Train, Trained, Unit
from pipelines.engine.recovery import Recovery
from pipelines.engine.steering import Control
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Refused, Work, failure_event
from pipelines.recipe.errors import RunFailed
from pipelines.run_folder.events import PayloadsLost
from pipelines.run_folder.folder import RunFolder

W = TypeVar("W", bound=Work)


@dataclass
class Era:
    """What the driver knows from one start, or loss of the gang, to the next. brought: by the calls of the update under way."""

    loop: Loop
    training: Train | None = None
    brought: list[Outcome] = field(default_factory=list)


class Driver(Generic[W]):
    """Runs one program's work on the pools of an executor.

    When the gang is lost, everything begins again from a checkpoint, and answers to earlier tasks are ignored.
    """

    era: Era

    def __init__(
        self,
        work: W,
        tickets: Tickets,
        folder: RunFolder,
        control: Control,
        checkpoints: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """checkpoints: the folder or URL where they lie. `check` is called at every turn, and raises if the run must end at once."""
        self.work, self.tickets, self.folder, self.control, self.check = work, tickets, folder, control, check
        self.executor, self.health, self.note = tickets.executor, tickets.health, control.watchers.note
        self.recovery = Recovery(work.updates, tickets, folder, checkpoints, self.note)
        self.core = Core()
        self.checkpointer = Checkpointer(work.updates, folder, checkpoints, tickets, self.recover, self.not_saved)

    def run(self, found: Found | None) -> str:
        """From a checkpoint, or the beginning, to the end. Returns "done", or "stopped" after a request to stop. Raises RunFailed."""
        self.take_up(self.recovery.start_from(found), anew=True)
        while not self.finished():
            if self.checkpointer.overdue and not (self.checkpointer.saving or self.era.training or self.work.pending):
                self.save()
            if self.control.stopping and self.ready_to_stop():
                self.work.finish()
                return "stopped"
            if not self.control.stopping and not self.work.hold_up(self.checkpointer.overdue):
                loop = self.era.loop
                for decision in loop.decide({pool: self.executor.free(pool) for pool in loop.pools}):
                    self.carry_out(decision)
            began = time.monotonic()
            outcomes = self.executor.wait(timeout_s=1.0)
            self.check()
            progress = self.era.loop.progress()
            if progress.admission_paused:
                self.health.paused_s += time.monotonic() - began
            self.tickets.hand_out(outcomes)
            self.control.tick(progress)
        self.work.finish()
        return "done"

    def take_up(self, core: Core, anew: bool) -> None:
        """Continues from here, with no later task under way. anew: from a checkpoint, or version 0."""
        self.tickets.begin_era()
        self.checkpointer.let_go()
        self.core, self.era = core, Era(Loop(self.work.plan(core.step, self.executor.object_store_bytes())))
        if anew:
            self.checkpointer.go_on_from(core.step)

    def finished(self) -> bool:
        """All is done, and nothing beside the loop (a checkpoint, what the program waits for) is under way."""
        checkpointer = self.checkpointer
        beside = checkpointer.saving or checkpointer.overdue or self.work.pending or self.work.to_come
        return self.era.loop.done and not beside

    def ready_to_stop(self) -> bool:
        """True when nothing would be lost by ending now; begins the checkpoint that this needs."""
        if self.era.training or self.checkpointer.saving or self.work.pending:
            return False
        if self.checkpointer.saved_step < self.era.loop.version:
            self.save()
            return False
        return True

    # what the loop decides

    def carry_out(self, decision: Decision) -> None:
        """Turns one decision into calls, or hands it to the program."""
        match decision:
            case Ask():
                self.ask(decision)
            case Train():
                self.train(decision)
            case Abort(reason):
                raise RunFailed(reason)
            case _:
                self.work.heed(decision)

    def ask(self, ask: Ask) -> None:
        """Asks a worker of the pool for a batch."""
        call = self.work.call(ask)
        then = partial(self.took, ask, call.method.__name__)
        options: dict[str, Any] = {"returns": call.returns, "avoid": ask.avoid}
        self.tickets.call(ask.pool, call.method, call.args, then, ask.batch, ask.unit.stream, **options)

    def took(self, ask: Ask, task: str, outcome: Outcome) -> None:
        """A batch came back, or did not; of what came back the program says for each unit whether it counts."""
        if outcome.failure:
            return self.refuse(ask, task, ask.wanted, outcome.worker, Refused(outcome.failure))
        try:
            results = self.work.took(ask, outcome)
        except Refused as refused:
            return self.refuse(ask, task, ask.wanted, outcome.worker, refused)
        for unit, result in results.items():
            if isinstance(result, Refused):
                self.refuse(ask, task, [unit], outcome.worker, result)
            else:
                self.era.loop.handle(Done(unit, ask.pool, result))

    def refuse(self, ask: Ask, task: str, units: Sequence[Unit], worker: str, refused: Refused) -> None:
        """A task failed for these units of its batch: it is written down, and the loop decides what follows."""
        failure = refused.failure
        self.health.failed(failure)
        self.folder.event(failure_event(ask, task, worker, failure))
        for unit in units:
            self.era.loop.handle(Failed(unit, ask.pool, worker, failure.cause, failure.message, refused.retry))

    # updates of the gang

    def train(self, train: Train) -> None:
        """Asks the gang for what a step needs."""
        self.era.training, self.era.brought = train, []
        calls = self.work.updates.update(train)
        for call in calls:
            then = partial(self.updated, train, call.method.__name__, len(calls))
            options: dict[str, Any] = {"shards": call.shards, "returns": call.returns}
            self.tickets.call(self.work.updates.gang, call.method, call.args, then, about=train.step, **options)

    def updated(self, train: Train, doing: str, calls: int, outcome: Outcome) -> None:
        """The gang has done one of so many calls of a step."""
        if outcome.failure:
            return self.recover(doing, train.step, outcome.failure)
        self.era.brought.append(outcome)
        if len(self.era.brought) == calls:
            self.step_over(train)

    def step_over(self, train: Train) -> None:
        """A new version exists: the step is complete."""
        era, updates = self.era, self.work.updates
        digest = updates.updated(train, era.brought, self.core.digest, era.loop.progress())
        self.core = replace(self.core, step=train.step, digest=digest)
        era.training = None
        self.recovery.losses.trained(train.step)
        era.loop.handle(Trained(train.step))
        updates.forget(era.loop.oldest_version_needed())
        if self.checkpointer.due(train.step) and not self.work.pending:
            self.save()

    def save(self) -> None:
        """Begins a checkpoint of the version that exists now; what is written beside the loop is complete before it."""
        self.work.finish()
        self.checkpointer.begin(self.core)

    def not_saved(self, message: str) -> None:
        """A checkpoint could not be written: this is reported, and ends the run only if it was to stop here."""
        if self.control.stopping:
            raise RunFailed(message)
        self.note(f"warning: {message}; the run goes on, and the last whole checkpoint stays")

    # when the gang is lost

    def recover(self, doing: str, step: int, failure: Failure) -> None:
        """Goes back to where the gang is known: its ranks are started again, and the steps since the checkpoint replayed."""
        self.health.failed(failure)
        if failure.cause == "object_lost" and self.executor.status()[self.work.updates.gang].wanted == 1:
            return self.make_again(failure)
        self.health.gang_losses += 1
        self.recovery.lost(doing, step, failure)
        self.tickets.begin_era()
        while self.checkpointer.writing:
            self.tickets.hand_out(self.executor.wait(timeout_s=1.0))
        self.take_up(self.recovery.start_again(), anew=True)

    def make_again(self, failure: Failure) -> None:
        """A payload of the update is gone with its node, but the gang is well: what is open is made again, by the same versions."""
        self.folder.event(PayloadsLost(step=self.core.step + 1, message=failure.message))
        self.note("payloads were lost with their node: the open groups are drawn again")
        self.work.updates.again()
        self.take_up(self.core, anew=False)
