"""The work of `train`: images are drawn and scored, groups trained on, held-out ones shown and tallied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

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
    """Units are chunks of groups, which pass the pool `rollout`, and side by side those of the rewards."""

    def __init__(self, run: TrainRun, updates: TrainUpdates) -> None:
        self.run, self.updates = run, updates
        self.elastic: Mapping[str, Pool] = {"rollout": run.recipe.rollout, **run.recipe.rewards}

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        run = self.run
        recipe, evaluated = run.recipe, tuple(run.era.evaluated)
        return loop_plan(
            recipe.loop, recipe.rollout, run.rewards.pools, run.heldout, first_version, evaluated, store_bytes
        )

    def call(self, ask: Ask) -> Call:
        return self._draw(ask) if ask.pool == "rollout" else self._score(ask)

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        return self._drawn(ask, outcome) if ask.pool == "rollout" else {ask.unit: self._scored(ask, outcome)}

    def heed(self, notice: Notice) -> None:
        """Records evaluations and quarantined groups, and releases groups."""
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
                **{
                    pool.replace("reward", "score", 1): {
                        "waiting": progress.waiting[pool],
                        "in_flight": progress.busy[pool],
                    }
                    for pool in self.run.rewards.pools
                },
                "update": {"in_flight": int(progress.training)},
            },
            "evaluating": dict(zip(("step", "settled", "groups"), sweep, strict=True)) if sweep else None,
        }

    def busy_share(self) -> Mapping[str, float]:
        return self.run.log.last.busy if self.run.log.last else {}

    def _draw(self, ask: Ask) -> Call:
        """Of a batch; groups of it that are settled are drawn again with the others, and then dropped."""
        run, known = self.run, self.run.era.groups
        batch = [
            (unit, known.get(unit.key) or open_group(unit, ask.version, run.order, run.heldout)) for unit in ask.batch
        ]
        known.update({group.key: group for unit, group in batch if unit in ask.wanted})
        sha256, adapter = run.era.adapters[ask.version]
        request = draw_request(run.recipe.run.seed, run.recipe.rollout, run.heldout, batch, sha256)
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

    def _score(self, ask: Ask) -> Call:
        """Of a chunk. Held-out images are checked as well, once: with the first reward."""
        group = self.run.era.groups[ask.unit.key]
        args = (group.drawn_prompt(), group.chunks[ask.unit.chunk].images)
        return Call(RewardActor.evaluate, args, returns=2) if self._checks(ask) else Call(RewardActor.score, args)

    def _checks(self, ask: Ask) -> bool:
        return ask.unit.stream == HELDOUT and ask.pool == self.run.rewards.pools[0]

    def _scored(self, ask: Ask, outcome: Outcome) -> int | Refused:
        """A reward has scored a chunk. What is not a number is a failure of its group, never a reward."""
        run, unit, scores = self.run, ask.unit, outcome.value
        group = run.era.groups[unit.key]
        chunk = group.chunks[unit.chunk]
        if message := run.rewards.problem(ask.pool, scores, group.prompt):
            return Refused(Failure("raised", message), retry=False)
        chunk = replace(chunk, scores={**chunk.scores, ask.pool: scores})
        whole = len(chunk.scores) == len(run.rewards.pools)
        if unit.stream == HELDOUT:
            try:
                if self._checks(ask):
                    chunk = replace(chunk, checks=run.era.showcase.fetch(outcome.payloads[0]))
                if whole:
                    run.era.showcase.add(unit, run.rewards.judged(group.drawn_prompt(), chunk), chunk.images)
            except PayloadLostError as error:
                return Refused(Failure("object_lost", str(error)))
        run.log.scored(unit, ask.pool, scores, outcome.seconds)
        kept = not whole or run.samples.wants(unit)
        group.chunks[unit.chunk] = chunk if kept else replace(chunk, images=None)
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
