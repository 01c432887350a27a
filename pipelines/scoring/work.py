"""`score` as the driver sees it: images are read, then judged by every reward side by side, and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.messages import Prompt, Verdict
from actors.reward.actor import RewardActor
from cluster.tasks import Failure, Handle, Outcome
from pipelines.data.images import ImageRow
from pipelines.engine.messages import Ask, LoopPlan, Notice, Quarantined, Released, Settled, Sweeps, Unit
from pipelines.engine.work import Call, Refused
from pipelines.recipe.programs.score import READER, ScoreRecipe
from pipelines.recipe.reward import by_pool, names_by_pool
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record, Shards
from pipelines.running.mapping import MapWork, plan_of
from pipelines.scoring.columns import FOLDER, LOG_PROBS, TOKENS, schema_of
from pipelines.scoring.reader import ImageReader

TOGETHER = 16  # images of a task, at most
TASKS = 32  # in flight, at least: so that workers that join find something to do


@dataclass(frozen=True, eq=False)
class Read:
    """Images that were read together."""

    images: Handle


class ScoreWork(MapWork):
    """Each row of a set is read and judged, and its record goes to the shards. What they hold already is not done again."""

    def __init__(self, recipe: ScoreRecipe, rows: Sequence[ImageRow], run: RunFolder) -> None:
        self.recipe, self.rows, self.elastic = recipe, rows, recipe.pools
        self.names, tables = names_by_pool(recipe.reward), by_pool(recipe.reward)
        self.explained = {
            name: recipe.scores.tokens and tables[pool].options.explains for pool, name in self.names.items()
        }
        super().__init__(Shards(run.path / FOLDER, len(rows), recipe.scores.shard_rows, schema_of(self.explained)))
        self.missing = self.shards.missing()
        self.images: dict[Unit, tuple[Read, int]] = {}  # which of those that were read together it is
        self.verdicts: dict[int, dict[str, Verdict]] = {}

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        count, in_flight = len(self.missing), self.recipe.scores.in_flight
        together = max(1, min(TOGETHER, in_flight // TASKS))
        tasks = [min(together, count - first) for first in range(0, count, together)]
        stages = ((READER,), tuple(self.names))
        return plan_of({"score": Sweeps(stages, {0: tasks}, batched=len(stages))}, in_flight, store_bytes)

    def call(self, ask: Ask) -> Call:
        if ask.pool == READER:
            rows = tuple(self.row(unit) for unit in ask.batch)
            return Call(ImageReader.read, (rows,), returns=2)
        reads: dict[Read, int] = {}  # several, if an image was lost and read again
        asked = []
        for unit in ask.wanted:
            read, place = self.images[unit]
            prompt = Prompt(str(self.missing[unit.group]), self.row(unit).caption)
            asked.append((prompt, reads.setdefault(read, len(reads)), place))
        images = (read.images for read in reads)
        return Call(RewardActor.judge_each, (tuple(asked), self.explained[self.names[ask.pool]], *images))

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        if ask.pool == READER:
            return self._read(ask, outcome)
        for unit, verdict in zip(ask.wanted, outcome.value, strict=True):
            self.verdicts.setdefault(unit.group, {})[self.names[ask.pool]] = verdict
        return dict.fromkeys(ask.wanted, 0)

    def heed(self, notice: Notice) -> None:
        """A row is written down once it is settled or given up."""
        match notice:
            case Settled(key):
                self.shards.add(self._record(key.group, self.verdicts.pop(key.group)))
            case Quarantined(key, _, message):
                self.verdicts.pop(key.group, None)
                reason = message.strip().splitlines()[-1]
                self.shards.add(self._record(key.group, {name: Verdict(None, reason) for name in self.explained}))
            case Released(key):
                self.images.pop(Unit(key.stream, key.step, key.group, 0), None)

    def row(self, unit: Unit) -> ImageRow:
        """What a unit is about."""
        return self.rows[self.missing[unit.group]]

    def _read(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """A batch was read; a row of which there is no image is given up, with its reason."""
        results: dict[Unit, int | Refused] = {}
        read = Read(outcome.payloads[0])
        for place, (unit, (problem, num_bytes)) in enumerate(zip(ask.batch, outcome.value, strict=True)):
            if unit not in ask.wanted:
                continue
            if problem:
                results[unit] = Refused(Failure("raised", problem), retry=False)
                continue
            self.images[unit], results[unit] = (read, place), num_bytes
        return results

    def _record(self, group: int, verdicts: Mapping[str, Verdict]) -> Record:
        """A row of the shards: a score is null where there is none, and the reason says why."""
        number = self.missing[group]
        row = self.rows[number]
        record: Record = {ROW: number, "file_name": row.file_name, "caption": row.caption}
        for name, explains in self.explained.items():
            verdict = verdicts[name]
            record[name] = verdict.reward
            if explains:
                record |= {TOKENS.format(name): list(verdict.tokens), LOG_PROBS.format(name): list(verdict.log_probs)}
        reasons = [f"{name}: {verdicts[name].reason}" for name in self.explained if verdicts[name].reason]
        return {**record, REASON: "; ".join(reasons) or None}
