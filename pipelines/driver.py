"""The driver: carries the loop's decisions to the workers and what comes of them back to the loop, and keeps the run's books.

It touches small dicts and handles only: images and latents stay where they were made. It knows neither Ray nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.messages import Prompt, Scores
from actors.policy.advantages import group_advantages
from cluster.tasks import Executor, Failure, Outcome, Task
from pipelines.checkpoints import Checkpointer
from pipelines.config import Recipe
from pipelines.digest import FIRST, next_digest
from pipelines.display import Display
from pipelines.evaluation import HeldoutPlan
from pipelines.loop import Loop
from pipelines.loop_messages import (
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
from pipelines.prompts import PromptOrder
from pipelines.requests import Chunk, Group, draw_request, loop_plan, open_group, update_group
from pipelines.run_folder import RunFolder
from pipelines.showcase import Showcase
from pipelines.step_log import StepLog


class RunFailed(RuntimeError):
    """The run cannot go on; the text says why."""


@dataclass(frozen=True)
class Start:
    """From where a run begins: version 0, or a checkpoint. `adapters`: policy version -> (sha256, handle)."""

    adapters: dict[int, tuple[str, Any]]
    step: int = 0
    digest: str = FIRST
    images: int = 0
    seconds: float = 0.0
    evaluated: tuple[int, ...] = ()


class Driver:
    """Runs one training run on an executor with the pools `rollout`, `reward` and `policy`."""

    def __init__(
        self,
        recipe: Recipe,
        order: PromptOrder,
        heldout: HeldoutPlan,
        executor: Executor,
        folder: RunFolder,
        display: Display,
        start: Start,
    ) -> None:
        self.recipe, self.order, self.heldout = recipe, order, heldout
        self.executor, self.folder, self.display = executor, folder, display
        self.loop = Loop(loop_plan(recipe, heldout, start.step, start.evaluated))
        self.log = StepLog(start.digest, start.images, start.seconds)
        self.showcase = Showcase(heldout, folder, executor)
        self.checkpointer = Checkpointer(recipe, folder, start.step)
        self.adapters = dict(start.adapters)
        self.groups: dict[GroupKey, Group] = {}
        self.evaluated = list(start.evaluated)
        self.training: Train | None = None
        self.figures: dict[str, float] = {}
        self.stopping = False
        self.take: dict[str, Callable[[Outcome], None]] = {
            "draw": self.drawn,
            "score": self.scored,
            "update": self.updated,
            "export": self.exported,
            "save": self.saved,
            "explain": self.showcase.explained,
        }

    def run(self) -> str:
        """Returns "done", or "stopped" after `stop`, with a checkpoint. Raises RunFailed."""
        while not self.finished():
            if self.stopping and self.ready_to_stop():
                return "stopped"
            if not self.stopping:
                free = {pool: self.executor.free(pool) for pool in ("rollout", "reward")}
                for decision in self.loop.decide(free):
                    self.carry_out(decision)
            for outcome in self.executor.wait(timeout_s=1.0):
                self.take[outcome.key[0]](outcome)
            self.display.pools(self.executor.status())
        return "done"

    def finished(self) -> bool:
        """All is trained and evaluated, and nothing beside the loop (a checkpoint, captions to explain) is under way."""
        return self.loop.done and not self.checkpointer.saving and not self.showcase.waiting

    def stop(self) -> None:
        """Asks the run to end: no new work; the update in flight finishes and a checkpoint is written."""
        self.stopping = True
        self.display.note("stopping: finishing the update and writing a checkpoint; Ctrl-C again ends at once")

    def ready_to_stop(self) -> bool:
        """True when nothing would be lost by ending now; begins the checkpoint that this needs."""
        if self.training or self.checkpointer.saving:
            return False
        if self.checkpointer.saved_step < self.loop.version:
            self.save()
            return False
        return True

    def submit(self, pool: str, kind: str, what: Any, args: tuple, **options: Any) -> None:
        """Gives a task to the executor; its outcome comes back under the key (kind, what)."""
        method = options.pop("method", kind)
        deadline = self.recipe.cluster.task_timeout_s
        self.executor.submit(Task(pool, method, (kind, what), args, deadline_s=deadline, **options))

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
            case Quarantined():
                self.quarantine(decision)
            case Released(purpose, step, group):
                self.groups.pop(GroupKey(purpose, step, group), None)
            case Abort(reason):
                raise RunFailed(reason)

    def draw(self, draw: Draw) -> None:
        """Asks a rollout worker for a chunk."""
        unit = draw.unit
        if unit.key not in self.groups:
            self.groups[unit.key] = open_group(unit, draw.version, self.order, self.heldout)
        sha256, adapter = self.adapters[draw.version]
        request = draw_request(self.recipe, self.heldout, unit, self.groups[unit.key], sha256)
        self.submit("rollout", "draw", unit, (request, adapter), returns=3, avoid=draw.avoid)

    def score(self, score: Score) -> None:
        """Asks a reward worker to score a chunk. Training sends the caption alone; held-out images are checked as well."""
        unit = score.unit
        group = self.groups[unit.key]
        images, prompt = group.chunks[unit.chunk].images, group.drawn_prompt()
        if unit.purpose == "train":
            self.submit("reward", "score", unit, (Prompt(prompt.id, prompt.caption), images), avoid=score.avoid)
        else:
            self.submit("reward", "score", unit, (prompt, images), method="evaluate", returns=2, avoid=score.avoid)

    def train(self, train: Train) -> None:
        """Asks every policy rank to update on the groups and to export the new adapter."""
        self.training = train
        groups = [self.groups[key] for key in train.groups]
        rewards_PK = np.array([group.rewards_K() for group in groups]).reshape(
            len(groups), self.recipe.rollout.group_size
        )
        advantages_PK = group_advantages(rewards_PK, self.recipe.objective.advantage_std) if groups else rewards_PK
        self.log.step_begins(train, [group.prompt.category for group in groups], rewards_PK, advantages_PK)
        shares = tuple(update_group(self.recipe, *pair) for pair in zip(groups, advantages_PK, strict=True))
        latents = tuple(chunk.latents for group in groups for chunk in group.in_order())
        self.submit("policy", "update", train.step, (train.step, shares, *latents))
        self.submit("policy", "export", train.step, (train.step,), returns=2)

    def finish_evaluation(self, version: int) -> None:
        """All held-out groups of a version are scored: its figures and pictures are written."""
        for record in self.showcase.finish(version):
            self.folder.heldout(record)
            self.display.heldout(record)
        self.evaluated.append(version)

    def quarantine(self, decision: Quarantined) -> None:
        """A group is left out: with its record, and said aloud."""
        prompt = self.groups[GroupKey(decision.purpose, decision.step, decision.group)].prompt
        self.log.quarantined += 1
        where = {"purpose": decision.purpose, "step": decision.step, "group": decision.group}
        why = {"cause": decision.cause, "message": decision.message, "tries": decision.tries}
        self.folder.event("quarantine", **where, **why, prompt_id=prompt.id, caption=prompt.caption)
        reason = decision.message.strip().splitlines()[-1]
        self.display.note(
            f"quarantined group {decision.group} of step {decision.step} ({prompt.caption[:60]}): {reason}"
        )

    # what the workers return

    def drawn(self, outcome: Outcome) -> None:
        """A chunk was drawn, or was not."""
        unit: Unit = outcome.key[1]
        if outcome.failure:
            return self.failed(unit, outcome, outcome.failure)
        group = self.groups[unit.key]
        held, wanted = outcome.value.adapter_sha256, self.adapters[group.version][0]
        if held != wanted:
            message = f"the worker drew with adapter {held[:12]}, but version {group.version} is {wanted[:12]}"
            return self.failed(unit, outcome, Failure("raised", message))
        group.chunks[unit.chunk] = Chunk(outcome.value, *outcome.payloads)
        self.log.drawn(unit, outcome.value, outcome.seconds)
        self.loop.handle(Drawn(unit, outcome.value.num_bytes))

    def scored(self, outcome: Outcome) -> None:
        """A chunk was scored, or was not. A reward that is not a number is a failure of its group, never a reward."""
        unit: Unit = outcome.key[1]
        if outcome.failure:
            return self.failed(unit, outcome, outcome.failure)
        scores: Scores = outcome.value
        group = self.groups[unit.key]
        for reward in scores.rewards_K:
            if not math.isfinite(reward):
                failure = Failure("raised", f"a reward of prompt {group.prompt.id} is {reward}")
                return self.failed(unit, outcome, failure, retry=False)
        self.log.scored(unit, scores, outcome.seconds)
        chunk = group.chunks[unit.chunk]
        group.chunks[unit.chunk] = replace(chunk, images=None, scores=scores)
        if unit.purpose == "heldout":
            self.showcase.add(
                unit, group.drawn_prompt(), chunk.images, scores, self.executor.fetch(outcome.payloads[0])
            )
        self.loop.handle(Scored(unit))

    def failed(self, unit: Unit, outcome: Outcome, failure: Failure, retry: bool = True) -> None:
        """A draw or a score failed: it is written down, and the loop decides what follows."""
        where = {"purpose": unit.purpose, "step": unit.step, "group": unit.group, "chunk": unit.chunk}
        why = {"cause": failure.cause, "message": failure.message}
        self.folder.event("failure", task=outcome.key[0], worker=outcome.worker, **where, **why)
        self.loop.handle(Failed(unit, outcome.worker, failure.cause, failure.message, retry))

    def updated(self, outcome: Outcome) -> None:
        """The ranks have updated; the export that follows makes the new version exist."""
        if outcome.failure:
            raise RunFailed(f"the update of step {outcome.key[1]} failed: {outcome.failure.message}")
        self.figures = outcome.value

    def exported(self, outcome: Outcome) -> None:
        """A new policy version exists: the step is complete."""
        step, train = outcome.key[1], self.training
        if outcome.failure:
            raise RunFailed(f"the export of version {step} failed: {outcome.failure.message}")
        assert train is not None
        sha256, seconds = outcome.value["sha256"], outcome.value["seconds"]
        self.adapters[step] = (sha256, outcome.payloads[0])
        self.training = None
        groups = [self.groups[key] for key in train.groups]
        rewards = [(group.prompt.id, group.version, group.rewards_K()) for group in groups]
        digest = next_digest(self.log.digest, step, rewards, self.figures.get("loss"), sha256)
        record = self.log.step_ends(digest, self.figures, seconds, self.executor.status(), self.loop.progress())
        self.folder.metric(record)
        self.display.step(record)
        self.loop.handle(Trained(step))
        oldest = self.loop.oldest_version_needed()
        self.adapters = {version: adapter for version, adapter in self.adapters.items() if version >= oldest}
        if self.checkpointer.due(step):
            self.save()

    # checkpoints

    def save(self) -> None:
        """Asks the ranks to write a checkpoint of the version that exists now."""
        args = self.checkpointer.begin(self.loop.version, self.log, self.adapters, self.evaluated)
        self.submit("policy", "save", self.loop.version, args)

    def saved(self, outcome: Outcome) -> None:
        """A checkpoint is complete, or could not be written: that is said, and ends the run only if it was to stop here."""
        if outcome.failure is None:
            return self.checkpointer.finish(outcome.value)
        self.checkpointer.give_up(outcome.failure.message)
        message = f"the checkpoint of step {outcome.key[1]} failed: {outcome.failure.message}"
        if self.stopping:
            raise RunFailed(message)
        self.display.note(message)
