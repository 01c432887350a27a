"""The work of `train`: images are drawn and scored, groups trained on, held-out ones shown and tallied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from actors.messages import Scores
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from cluster.tasks import Executor, Failure, Outcome, PayloadLostError
from pipelines.data.prompts import PromptOrder
from pipelines.engine.driver import Driver
from pipelines.engine.messages import (
    Ask,
    LoopPlan,
    Notice,
    Progress,
    Quarantined,
    Released,
    Swept,
    Unit,
)
from pipelines.engine.steering import Control
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Call, Refused, Work
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.tables import Pool
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import StepRecord
from pipelines.run_folder.roster import Roster
from pipelines.training.beginning import NO_INPUTS, Inputs
from pipelines.training.groups import HELDOUT, Chunk, draw_request, loop_plan, open_group
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.run import TrainRun
from pipelines.training.updates import TrainUpdates


class TrainWork(Work):
    """Units are chunks of groups, which pass the pools `rollout` and `reward`."""

    def __init__(self, run: TrainRun, updates: TrainUpdates) -> None:
        self.run, self.updates = run, updates
        self.elastic: Mapping[str, Pool] = {"rollout": run.recipe.rollout, "reward": run.recipe.reward}

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        run = self.run
        return loop_plan(run.recipe, run.heldout, first_version, tuple(run.era.evaluated), store_bytes)

    def call(self, ask: Ask) -> Call:
        return self._draw(ask) if ask.pool == "rollout" else self._score(ask.unit)

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        return self._drawn(ask, outcome) if ask.pool == "rollout" else {ask.unit: self._scored(ask.unit, outcome)}

    def heed(self, notice: Notice) -> None:
        """Evaluations are written down, and so is what is left out; groups are let go."""
        era, books = self.run.era, self.run.books
        match notice:
            case Swept(version=version):
                books.evaluation(era.showcase.finish(version))
                era.evaluated.append(version)
            case Quarantined(key):
                books.quarantine(era.groups[key], notice)
            case Released(key):
                era.groups.pop(key, None)

    def hold_up(self, checkpoint_overdue: bool) -> bool:
        """Images that are kept are still under way."""
        return self.run.samples.hold_up(checkpoint_overdue)

    @property
    def pending(self) -> bool:
        """Images that are kept are under way."""
        return self.run.samples.pending

    @property
    def to_come(self) -> bool:
        """Captions are being explained."""
        return bool(self.run.era.showcase.waiting)

    def finish(self) -> None:
        """The pictures of what counts as evaluated are there."""
        self.run.pictures.finish()

    def status(self, progress: Progress) -> dict[str, Any]:
        log, steps = self.run.log, self.run.recipe.loop.steps
        last, sweep = log.last or StepRecord(step=0), progress.sweep
        return {
            "step": log.step,
            "steps": steps,
            "images_per_s": last.images_per_s,
            "reward_mean": last.reward_mean,
            "seconds": log.seconds(),
            "images": log.images,
            "quarantined": log.quarantined,
            "stages": {
                "draw": {"waiting": progress.waiting["rollout"], "in_flight": progress.busy["rollout"]},
                "score": {"waiting": progress.waiting["reward"], "in_flight": progress.busy["reward"]},
                "update": {"in_flight": int(progress.training)},
            },
            "evaluating": dict(zip(("step", "settled", "groups"), sweep, strict=True)) if sweep else None,
        }

    def busy_share(self) -> Mapping[str, float]:
        return self.run.log.last.busy if self.run.log.last else {}

    def _draw(self, ask: Ask) -> Call:
        """Of a batch; groups of it that are settled are drawn once more for the others' sake, and let go."""
        run, known = self.run, self.run.era.groups
        batch = [
            (unit, known.get(unit.key) or open_group(unit, ask.version, run.order, run.heldout)) for unit in ask.batch
        ]
        known.update({group.key: group for unit, group in batch if unit in ask.wanted})
        sha256, adapter = run.era.adapters[ask.version]
        request = draw_request(run.recipe, run.heldout, batch, sha256)
        return Call(RolloutActor.draw, (request, adapter), returns=1 + 2 * len(batch))

    def _drawn(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """A batch was drawn; a chunk of it whose figures are not finite was not."""
        era = self.run.era
        held, wanted = outcome.value[0].adapter_sha256, era.adapters[ask.version][0]
        if held != wanted:
            message = f"the worker drew with adapter {held[:12]}, but version {ask.version} is {wanted[:12]}"
            raise Refused(Failure("raised", message))
        payloads = zip(outcome.payloads[::2], outcome.payloads[1::2], strict=True)
        drawn = zip(ask.batch, outcome.value, payloads, strict=True)
        chunks = {unit: Chunk(report, *handles) for unit, report, handles in drawn}
        reports = {unit: chunks[unit].report for unit in ask.wanted}
        self.run.log.drawn({unit: report for unit, report in reports.items() if not report.not_finite}, outcome.seconds)
        results: dict[Unit, int | Refused] = {}
        for unit, report in reports.items():
            group = era.groups[unit.key]
            if what := report.not_finite:
                message = f"the {what} drawn for prompt {group.prompt.id} are not finite"
                results[unit] = Refused(Failure("raised", message), retry=False)
                continue
            group.chunks[unit.chunk] = chunks[unit]
            results[unit] = report.num_bytes
        return results

    def _score(self, unit: Unit) -> Call:
        """Of a chunk. Held-out images are checked as well."""
        group = self.run.era.groups[unit.key]
        args = (group.drawn_prompt(), group.chunks[unit.chunk].images)
        return Call(RewardActor.evaluate, args, returns=2) if unit.stream == HELDOUT else Call(RewardActor.score, args)

    def _scored(self, unit: Unit, outcome: Outcome) -> int | Refused:
        """A chunk was scored. A reward that is not a number is a failure of its group, never a reward."""
        scores: Scores = outcome.value
        group = self.run.era.groups[unit.key]
        for reward in scores.rewards_K:
            if not math.isfinite(reward):
                failure = Failure("raised", f"a reward of prompt {group.prompt.id} is {reward}")
                return Refused(failure, retry=False)
        chunk = group.chunks[unit.chunk]
        if unit.stream == HELDOUT:
            try:
                self.run.era.showcase.add(unit, group.drawn_prompt(), chunk.images, scores, outcome.payloads[0])
            except PayloadLostError as error:
                return Refused(Failure("object_lost", str(error)))
        self.run.log.scored(unit, scores, outcome.seconds)
        images = chunk.images if self.run.samples.wants(unit) else None
        group.chunks[unit.chunk] = replace(chunk, images=images, scores=scores)
        return 0


def driver_of(
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
) -> Driver[TrainWork]:
    """The driver of a run. checkpoints, samples_place: folders or URLs; `check` as for `Driver`."""
    tickets = Tickets(executor, recipe.cluster)
    run = TrainRun(recipe, order, heldout, tickets, folder, watchers, samples_place)
    work = TrainWork(run, TrainUpdates(run, inputs))
    name, scaling = recipe.run.name or folder.path.name, recipe.cluster.autoscale
    control = Control(name, work, tickets, folder, watchers, roster or Roster(recipe.exact), scaling)
    return Driver(work, tickets, folder, control, checkpoints, check)
