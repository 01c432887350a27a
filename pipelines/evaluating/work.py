"""`evaluate` as the driver sees it: sheets of images are drawn, judged by all judges side by side, and written down image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from actors.messages import DrawReport, Prompt, Scores
from actors.reward.actor import CheckerActor, RewardActor
from actors.rollout.actor import ModelsActor
from cluster.tasks import Executor, Failure, Handle, Outcome, PayloadLostError
from pipelines.engine.messages import (
    Ask,
    GroupKey,
    LoopPlan,
    Notice,
    Quarantined,
    Released,
    Settled,
    Spared,
    Sweeps,
    Unit,
)
from pipelines.engine.work import Call, Refused
from pipelines.evaluating.pools import draws_at, elastic
from pipelines.evaluating.sheets import Sheets
from pipelines.recipe.programs.evaluate import CHECKER
from pipelines.recipe.reward import names_by_pool
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record, Shards
from pipelines.running.mapping import MapWork, last_line, plan_of

FOLDER, CHECKS = "judged", "checks"
COLUMNS = {
    ROW: pa.int64(),
    "model": pa.string(),
    "guidance": pa.float64(),
    "height": pa.int64(),
    "width": pa.int64(),
    "seed": pa.int64(),
    "sample": pa.int64(),
    "prompt_id": pa.string(),
    "category": pa.string(),
    "caption": pa.string(),
}


@dataclass
class Drawn:
    """A sheet that was drawn: the prompt with the caption as it was drawn, a handle of its images, and what judges say of each.

    missing: by the judge that could say nothing, why.
    """

    prompt: Prompt
    images: Handle
    scores: dict[str, Sequence[float]] = field(default_factory=dict)  # by reward
    checks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def reason(self, judges: Sequence[str]) -> str | None:
        """Why figures are missing, if any are."""
        return "; ".join(f"{name}: {self.missing[name]}" for name in judges if name in self.missing) or None


class EvaluateWork(MapWork):
    """Each sheet is drawn and judged, and its images' records go to the shards. What they hold already is not done again."""

    def __init__(self, sheets: Sheets, run: RunFolder, executor: Executor) -> None:
        self.sheets, self.run, self.executor = sheets, run, executor
        self.elastic = elastic(sheets)
        self.names = names_by_pool(sheets.recipe.reward)
        self.rewards = list(self.names.values())
        size, count = sheets.images, len(sheets.all) * sheets.images
        in_file = -(-sheets.recipe.heldout.shard_images // size) * size
        columns = {**COLUMNS, **dict.fromkeys(self.rewards, pa.float64()), CHECKS: pa.map_(pa.string(), pa.float64())}
        schema, figures = pa.schema({**columns, REASON: pa.string()}), [*self.rewards, CHECKS]
        super().__init__(Shards(run.path / FOLDER, count, in_file, schema, figures))
        self.missing = sorted({row // size for row in self.shards.missing()})
        pools = draws_at(sheets.models)
        self.streams = {
            pool: [n for n in self.missing if pools[sheets.all[n].model.ground] == pool] for pool in pools.values()
        }
        self.task_of = {number: task for task in sheets.tasks for number in task}
        self.drawn: dict[GroupKey, Drawn] = {}

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        judges = tuple(self.sheets.recipe.judges)
        streams = {
            pool: Sweeps(((pool,), judges), {0: self._tasks(pool)}, spared=frozenset(judges)) for pool in self.streams
        }
        return plan_of(streams, self.sheets.recipe.heldout.in_flight, store_bytes)

    def call(self, ask: Ask) -> Call:
        if ask.pool in self.streams:
            together = self._together(ask)
            return Call(ModelsActor.draw, (self.sheets.request(together),), returns=1 + 2 * len(together))
        drawn = self.drawn[ask.unit.key]
        method = CheckerActor.check if ask.pool == CHECKER else RewardActor.score
        return Call(method, (drawn.prompt, drawn.images))

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        if ask.pool in self.streams:
            return self._took_drawn(ask, outcome)
        drawn = self.drawn[ask.unit.key]
        if ask.pool == CHECKER:
            drawn.checks = outcome.value
            return {ask.unit: 0}
        scores: Scores = outcome.value
        if bad := [score for score in scores.rewards_K if not math.isfinite(score)]:
            return {ask.unit: Refused(Failure("raised", f"a score is {bad[0]}"), retry=False)}
        drawn.scores[self.names[ask.pool]] = scores.rewards_K
        return {ask.unit: 0}

    def heed(self, notice: Notice) -> None:
        """Images are written down once they are judged or given up."""
        match notice:
            case Settled(key):
                drawn = self.drawn[key]
                self._write(key, drawn, drawn.reason([*self.rewards, CHECKER]))
            case Spared(unit, pool, message):
                self.drawn[unit.key].missing[self.names.get(pool, pool)] = last_line(message)
            case Quarantined(key, _, message):
                self._write(key, None, last_line(message))
            case Released(key):
                self.drawn.pop(key, None)

    def _tasks(self, pool: str) -> list[int]:
        """How many sheets of each draw task are still to be done, where there are any."""
        todo = set(self.streams[pool])
        return [count for task in self.sheets.tasks if (count := len(todo.intersection(task)))]

    def _together(self, ask: Ask) -> Sequence[int]:
        """The sheets that are drawn for a batch: a whole task, so that bytes do not depend on what is written already.

        A sheet whose task failed too often is drawn alone.
        """
        asked = [self._number(unit.key) for unit in ask.batch]
        task = self.task_of[asked[0]]
        left = set(self.missing).intersection(task)
        return task if len(asked) == len(left) else asked

    def _took_drawn(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """A batch was drawn; a sheet of it whose figures are not finite was not."""
        made = zip(outcome.value, outcome.payloads[::2], strict=True)
        found = dict(zip(self._together(ask), made, strict=True))
        return {unit: self._keep(unit.key, *found[self._number(unit.key)]) for unit in ask.wanted}

    def _keep(self, key: GroupKey, report: DrawReport, images: Handle) -> int | Refused:
        number = self._number(key)
        sheet = self.sheets.all[number]
        if report.not_finite:
            message = f"the {report.not_finite} drawn for prompt {sheet.prompt.id} are not finite"
            return Refused(Failure("raised", message), retry=False)
        prompt = Prompt(sheet.prompt.id, report.caption, sheet.prompt.category, sheet.prompt.extra)
        if sheet.shown:
            try:
                self.run.save_grid(picture_of(number), [(prompt.caption, self.executor.fetch(images))])
            except PayloadLostError as error:
                return Refused(Failure("object_lost", str(error)))
        self.drawn[key] = Drawn(prompt, images)
        return report.num_bytes

    def _number(self, key: GroupKey) -> int:
        """Of a group's sheet."""
        return self.streams[key.stream][key.group]

    def _write(self, key: GroupKey, drawn: Drawn | None, reason: str | None) -> None:
        """The records of a sheet's images; figures are null where there are none, and the reason says why."""
        number = self._number(key)
        self.shards.add(*(self._record(number, place, drawn, reason) for place in range(self.sheets.images)))

    def _record(self, number: int, place: int, drawn: Drawn | None, reason: str | None) -> Record:
        sheet = self.sheets.all[number]
        prompt = drawn.prompt if drawn else sheet.prompt
        return {
            ROW: number * self.sheets.images + place,
            "model": sheet.model.name,
            "guidance": sheet.way.guidance,
            "height": sheet.way.height,
            "width": sheet.way.width,
            "seed": sheet.seed,
            "sample": sheet.samples[place],
            "prompt_id": prompt.id,
            "category": prompt.category,
            "caption": prompt.caption,
            **{name: drawn.scores[name][place] if drawn and name in drawn.scores else None for name in self.rewards},
            CHECKS: [(name, values[place]) for name, values in drawn.checks.items()]
            if drawn and drawn.checks
            else None,
            REASON: reason,
        }


def picture_of(number: int) -> str:
    """The name of the grid of a sheet's images in samples/."""
    return f"sheet-{number:06d}"
