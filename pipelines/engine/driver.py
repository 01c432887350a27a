"""The driver: carries the loop's decisions to the workers and what comes of them back to the loop, and keeps the run's books.

It touches small dicts and handles only: images and latents stay where they were made. It knows neither Ray nor torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from actors.messages import Scores
from actors.policy.actor import PolicyActor
from actors.policy.advantages import group_advantages
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from cluster.tasks import Executor, Failure, Outcome, PayloadLostError
from pipelines.data.prompts import PromptOrder
from pipelines.engine.checkpoint import Found, Inputs
from pipelines.engine.checkpointer import Checkpointer
from pipelines.engine.digest import next_digest
from pipelines.engine.loop import Loop
from pipelines.engine.messages import (
    Abort,
    Decision,
    Draw,
    Drawn,
    Evaluated,
    Failed,
    GroupKey,
    Quarantined,
    Released,
    Score,
    Scored,
    Train,
    Trained,
    Unit,
)
from pipelines.engine.recovery import NO_INPUTS, Recovery, Start
from pipelines.engine.steering import Control
from pipelines.engine.tickets import Tickets
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import PayloadsLost
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.pictures import Pictures
from pipelines.run_folder.roster import Roster
from pipelines.training.books import Books
from pipelines.training.groups import Chunk, Group, draw_request, loop_plan, open_group, update_shares
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.shards import ShardWriter
from pipelines.training.showcase import Showcase
from pipelines.training.step_log import StepLog


class Driver:
    """Runs one training run on an executor with the pools `rollout`, `reward`, `policy`, `storage` and, if images are kept, `samples`.

    When the policy is lost, everything begins again from a checkpoint, and what was asked for before is let go.
    """

    def __init__(
        self,
        recipe: Recipe,
        order: PromptOrder,
        heldout: HeldoutPlan,
        executor: Executor,
        folder: RunFolder,
        watchers: Watchers,
        checkpoints: str,
        inputs: Inputs = NO_INPUTS,
        samples_place: str = "",
        check: Callable[[], None] = lambda: None,
        roster: Roster | None = None,
    ) -> None:
        """checkpoints: the folder or URL where they lie. `check` is called at every turn, and raises if the run must end at once."""
        self.recipe, self.order, self.heldout = recipe, order, heldout
        self.executor, self.folder, self.watchers, self.check = executor, folder, watchers, check
        self.log = StepLog()
        self.tickets = Tickets(executor, recipe.cluster, self.log.failed)
        self.recovery = Recovery(recipe, self.tickets, folder, checkpoints, watchers.note, inputs)
        self.checkpointer = Checkpointer(recipe, inputs, folder, checkpoints, self.tickets)
        self.pictures = Pictures(folder)
        self.samples = ShardWriter(recipe, samples_place, folder, self.tickets, watchers.note)
        self.books = Books(recipe, heldout, folder, self.log, watchers)
        self.control = Control(recipe, executor, folder, self.log, watchers, roster or Roster(recipe), self.stop)
        self.stopping = False

    def begin(self, start: Start) -> None:
        """Begins, or begins again, from a checkpoint or from version 0."""
        self.take_up(start)
        self.checkpointer.go_on_from(start.step)

    def take_up(self, start: Start) -> None:
        """Goes on from this state of the policy, with nothing drawn for what comes after it."""
        self.tickets.begin_era()
        self.checkpointer.let_go()
        store_bytes = self.executor.object_store_bytes()
        self.loop = Loop(loop_plan(self.recipe, self.heldout, start.step, start.evaluated, store_bytes))
        self.log.take_up(start)
        self.showcase = Showcase(self.heldout, self.folder, self.pictures, self.tickets)
        self.adapters = dict(start.adapters)
        self.groups: dict[GroupKey, Group] = {}
        self.evaluated = list(start.evaluated)
        self.training: Train | None = None
        self.figures: dict[str, float] = {}

    def run(self, found: Found | None) -> str:
        """From a checkpoint, or the beginning, to the end. Returns "done", or "stopped" after `stop`. Raises RunFailed."""
        self.begin(self.recovery.start_from(found))
        while not self.finished():
            if self.checkpointer.overdue and not (self.checkpointer.saving or self.training or self.samples.pending):
                self.save()
            if self.stopping and self.ready_to_stop():
                self.pictures.finish()
                return "stopped"
            if not self.stopping and not self.samples.hold_up(self.checkpointer.overdue):
                free = {pool: self.executor.free(pool) for pool in ("rollout", "reward")}
                for decision in self.loop.decide(free):
                    self.carry_out(decision)
            began = time.monotonic()
            outcomes = self.executor.wait(timeout_s=1.0)
            self.check()
            progress = self.loop.progress()
            if progress.admission_paused:
                self.log.paused(time.monotonic() - began)
            self.tickets.hand_out(outcomes)
            self.control.tick(progress, self.executor.status(), self.tickets.deadlines, self.stopping)
        self.pictures.finish()
        return "done"

    def finished(self) -> bool:
        """All is trained and evaluated, and nothing beside the loop (a checkpoint, captions to explain) is under way."""
        checkpointer = self.checkpointer
        return self.loop.done and not (checkpointer.saving or checkpointer.overdue or self.showcase.waiting)

    def stop(self) -> None:
        """Asks the run to end: no new work; the update in flight finishes and a checkpoint is written."""
        self.stopping = True
        self.watchers.note("stopping: finishing the update and writing a checkpoint; Ctrl-C again ends at once")

    def ready_to_stop(self) -> bool:
        """True when nothing would be lost by ending now; begins the checkpoint that this needs."""
        if self.training or self.checkpointer.saving or self.samples.pending:
            return False
        if self.checkpointer.saved_step < self.loop.version:
            self.save()
            return False
        return True

    # what the loop decides

    def carry_out(self, decision: Decision) -> None:
        """Turns one decision into a task, or into a line in the books."""
        match decision:
            case Draw():
                self.draw(decision)
            case Score():
                self.score(decision)
            case Train():
                self.train(decision)
            case Evaluated(version):
                self.finish_evaluation(version)
            case Quarantined(purpose, step, group):
                self.books.quarantine(self.groups[GroupKey(purpose, step, group)], decision)
            case Released(purpose, step, group):
                self.groups.pop(GroupKey(purpose, step, group), None)
            case Abort(reason):
                raise RunFailed(reason)

    def draw(self, draw: Draw) -> None:
        """Asks a rollout worker for a batch. Groups of it that are settled are drawn once more for the others' sake, and let go."""
        known = self.groups
        batch = [
            (unit, known.get(unit.key) or open_group(unit, draw.version, self.order, self.heldout))
            for unit in draw.batch
        ]
        known.update({group.key: group for unit, group in batch if unit in draw.wanted})
        sha256, adapter = self.adapters[draw.version]
        request = draw_request(self.recipe, self.heldout, batch, sha256)
        self.tickets.call(
            "rollout",
            RolloutActor.draw,
            (request, adapter),
            partial(self.drawn, draw),
            about=draw.batch,
            purpose=draw.batch[0].purpose,
            returns=1 + 2 * len(batch),
            avoid=draw.avoid,
        )

    def score(self, score: Score) -> None:
        """Asks a reward worker to score a chunk. Held-out images are checked as well."""
        unit = score.unit
        group = self.groups[unit.key]
        args = (group.drawn_prompt(), group.chunks[unit.chunk].images)
        heldout = unit.purpose == "heldout"
        self.tickets.call(
            "reward",
            RewardActor.evaluate if heldout else RewardActor.score,
            args,
            partial(self.scored, unit),
            about=unit,
            purpose=unit.purpose,
            returns=2 if heldout else 1,
            avoid=score.avoid,
        )

    def train(self, train: Train) -> None:
        """Asks every policy rank to update on the groups and to export the new adapter."""
        self.training = train
        groups = [self.groups[key] for key in train.groups]
        rewards_PK = np.reshape([group.rewards_K() for group in groups], (len(groups), self.recipe.rollout.group_size))
        advantages_PK = group_advantages(rewards_PK, self.recipe.objective.advantage_std) if groups else rewards_PK
        self.log.step_begins(train, [group.prompt.category for group in groups], rewards_PK, advantages_PK)
        shards = update_shares(self.recipe, groups, advantages_PK)
        step = train.step
        self.tickets.call("policy", PolicyActor.update, (step,), partial(self.updated, step), about=step, shards=shards)
        self.tickets.call("policy", PolicyActor.export, (step,), partial(self.exported, step), about=step, returns=2)
        self.samples.write(train.step, groups, advantages_PK)

    def finish_evaluation(self, version: int) -> None:
        """All held-out groups of a version are scored: its figures and pictures are written."""
        self.books.evaluation(self.showcase.finish(version))
        self.evaluated.append(version)

    # what the workers return

    def drawn(self, draw: Draw, outcome: Outcome) -> None:
        """A batch was drawn, or was not; a chunk of it whose figures are not finite was not."""
        if outcome.failure:
            return self.not_drawn(draw, draw.wanted, outcome.worker, outcome.failure)
        held, wanted = outcome.value[0].adapter_sha256, self.adapters[draw.version][0]
        if held != wanted:
            message = f"the worker drew with adapter {held[:12]}, but version {draw.version} is {wanted[:12]}"
            return self.not_drawn(draw, draw.wanted, outcome.worker, Failure("raised", message))
        payloads = zip(outcome.payloads[::2], outcome.payloads[1::2], strict=True)
        drawn = zip(draw.batch, outcome.value, payloads, strict=True)
        chunks = {unit: Chunk(report, *handles) for unit, report, handles in drawn}
        reports = {unit: chunks[unit].report for unit in draw.wanted}
        self.log.drawn({unit: report for unit, report in reports.items() if not report.not_finite}, outcome.seconds)
        for unit in draw.wanted:
            group = self.groups[unit.key]
            if what := reports[unit].not_finite:
                message = f"the {what} drawn for prompt {group.prompt.id} are not finite"
                self.not_drawn(draw, [unit], outcome.worker, Failure("raised", message), retry=False)
                continue
            group.chunks[unit.chunk] = chunks[unit]
            self.loop.handle(Drawn(unit, reports[unit].num_bytes))

    def not_drawn(self, draw: Draw, units: Sequence[Unit], worker: str, failure: Failure, retry: bool = True) -> None:
        """A draw failed for these chunks of its batch: it is written down, and the loop decides what follows."""
        self.books.failure("draw", draw.batch, worker, failure)
        for unit in units:
            self.loop.handle(Failed(unit, worker, failure.cause, failure.message, retry))

    def scored(self, unit: Unit, outcome: Outcome) -> None:
        """A chunk was scored, or was not. A reward that is not a number is a failure of its group, never a reward."""
        if outcome.failure:
            return self.not_scored(unit, outcome.worker, outcome.failure)
        scores: Scores = outcome.value
        group = self.groups[unit.key]
        for reward in scores.rewards_K:
            if not math.isfinite(reward):
                failure = Failure("raised", f"a reward of prompt {group.prompt.id} is {reward}")
                return self.not_scored(unit, outcome.worker, failure, retry=False)
        chunk = group.chunks[unit.chunk]
        if unit.purpose == "heldout":
            try:
                self.showcase.add(unit, group.drawn_prompt(), chunk.images, scores, outcome.payloads[0])
            except PayloadLostError as error:
                return self.not_scored(unit, outcome.worker, Failure("object_lost", str(error)))
        self.log.scored(unit, scores, outcome.seconds)
        images = chunk.images if self.samples.wants(unit) else None
        group.chunks[unit.chunk] = replace(chunk, images=images, scores=scores)
        self.loop.handle(Scored(unit))

    def not_scored(self, unit: Unit, worker: str, failure: Failure, retry: bool = True) -> None:
        """A score failed: it is written down, and the loop decides what follows."""
        self.books.failure("score", [unit], worker, failure)
        self.loop.handle(Failed(unit, worker, failure.cause, failure.message, retry))

    def updated(self, step: int, outcome: Outcome) -> None:
        """The ranks have updated; the export that follows makes the new version exist."""
        if outcome.failure:
            return self.recover("update", step, outcome.failure)
        self.figures = outcome.value

    def exported(self, step: int, outcome: Outcome) -> None:
        """A new policy version exists: the step is complete."""
        if outcome.failure:
            return self.recover("export", step, outcome.failure)
        train = self.training
        assert train is not None
        sha256, seconds = outcome.value["sha256"], outcome.value["seconds"]
        self.adapters[step] = (sha256, outcome.payloads[0])
        self.training = None
        groups = [self.groups[key] for key in train.groups]
        rewards = [(group.prompt.id, group.version, group.rewards_K()) for group in groups]
        digest = next_digest(self.log.digest, step, rewards, self.figures.get("loss"), sha256)
        record = self.log.step_ends(digest, self.figures, seconds, self.executor.status(), self.loop.progress())
        self.books.step(record)
        self.recovery.losses.trained(step)
        self.loop.handle(Trained(step))
        oldest = self.loop.oldest_version_needed()
        self.adapters = {version: adapter for version, adapter in self.adapters.items() if version >= oldest}
        if self.checkpointer.due(step) and not self.samples.pending:
            self.save()

    # checkpoints

    def save(self) -> None:
        """Begins a checkpoint of the version that exists now; the pictures of what it counts as evaluated are there before it."""
        self.pictures.finish()
        unevaluated = set(self.heldout.versions()) - set(self.evaluated)
        counters = self.log.counters()
        self.checkpointer.begin(self.adapters, self.evaluated, unevaluated, self.snapshot_taken, **counters)

    def snapshot_taken(self, outcome: Outcome) -> None:
        """The bytes of a checkpoint are there."""
        if outcome.failure:
            return self.recover("snapshot", self.loop.version, outcome.failure)
        self.log.checkpoint["snapshot_s"] = outcome.value["seconds"]
        self.checkpointer.write(outcome, self.written)

    def written(self, outcome: Outcome) -> None:
        """A checkpoint is whole, or could not be written: that is said, and ends the run only if it was to stop here."""
        assert self.checkpointer.manifest is not None
        if outcome.failure:
            self.log.failed(outcome.failure)
        else:
            self.log.checkpointed(self.checkpointer.manifest.step, outcome.value)
        if message := self.checkpointer.written(outcome):
            if self.stopping:
                raise RunFailed(message)
            self.watchers.note(f"warning: {message}; the run goes on, and the last whole checkpoint stays")

    # when the policy is lost

    def recover(self, doing: str, step: int, failure: Failure) -> None:
        """Goes back to where the policy is known: its ranks are started again, and the steps since the checkpoint replayed."""
        self.log.failed(failure)
        if failure.cause == "object_lost" and self.recipe.policy.ranks == 1:
            return self.draw_again(failure)
        self.log.policy_restarts += 1
        self.recovery.lost(doing, step, failure)
        self.tickets.begin_era()
        while self.checkpointer.writing:
            self.tickets.hand_out(self.executor.wait(timeout_s=1.0))
        self.begin(self.recovery.start_again())

    def draw_again(self, failure: Failure) -> None:
        """A payload of the update is gone with its node, but the policy is well: what is open is drawn again, by the same versions."""
        self.folder.event(PayloadsLost(step=self.loop.version + 1, message=failure.message))
        self.watchers.note("payloads were lost with their node: the open groups are drawn again")
        self.take_up(Start(self.adapters, **self.log.counters(), evaluated=tuple(self.evaluated)))
