"""`score` as the driver sees it: images are read, then judged by every reward side by side, and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.messages import Prompt, Verdict
from actors.reward.actor import RewardActor
from cluster.tasks import Outcome
from pipelines.data.images import ImageRow
from pipelines.engine.messages import Ask, Unit
from pipelines.engine.work import Call, Refused
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.reward import by_pool, names_by_pool
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record, Shards
from pipelines.running.reading import Pictures, ReadWork
from pipelines.scoring.columns import FOLDER, LOG_PROBS, TOKENS, schema_of


class ScoreWork(ReadWork):
    """Each row of a set is read and judged, and its record goes to the shards. What they hold already is not done again."""

    def __init__(self, recipe: ScoreRecipe, rows: Sequence[ImageRow], run: RunFolder) -> None:
        self.recipe, self.elastic = recipe, recipe.pools
        self.names, tables = names_by_pool(recipe.reward), by_pool(recipe.reward)
        self.explained = {
            name: recipe.scores.tokens and tables[pool].options.explains for pool, name in self.names.items()
        }
        schema, figures = schema_of(self.explained), self.explained.keys()
        shards = Shards(run.path / FOLDER, len(rows), recipe.scores.shard_rows, schema, figures)
        super().__init__(rows, shards, tuple(self.names), recipe.scores.in_flight, spared=self.names)
        self.verdicts: dict[int, dict[str, Verdict]] = {}

    def show(self, ask: Ask, pictures: Pictures) -> Call:
        prompts = (Prompt(str(self.number(unit)), self.row(unit).caption) for unit in ask.wanted)
        asked = tuple(zip(prompts, pictures.numbers, strict=True))
        return Call(RewardActor.judge_each, (asked, self.explained[self.names[ask.pool]], *pictures.handles))

    def answered(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        for unit, verdict in zip(ask.wanted, outcome.value, strict=True):
            self.verdicts.setdefault(unit.group, {})[self.names[ask.pool]] = verdict
        return dict.fromkeys(ask.wanted, 0)

    def unanswered(self, unit: Unit, pool: str, reason: str) -> None:
        self.verdicts.setdefault(unit.group, {})[self.names[pool]] = Verdict(None, reason)

    def record(self, number: int, group: int) -> Record:
        return self._record(number, self.verdicts.pop(group))

    def given_up(self, number: int, group: int, reason: str) -> Record:
        self.verdicts.pop(group, None)
        return {**self._record(number, dict.fromkeys(self.explained, Verdict(None))), REASON: reason}

    def _record(self, number: int, verdicts: Mapping[str, Verdict]) -> Record:
        """A row of the shards: a score is null where there is none, and the reason says why."""
        row = self.rows[number]
        record: Record = {ROW: number, "file_name": row.file_name, "caption": row.caption}
        for name, explains in self.explained.items():
            verdict = verdicts[name]
            record[name] = verdict.reward
            if explains:
                record |= {TOKENS.format(name): list(verdict.tokens), LOG_PROBS.format(name): list(verdict.log_probs)}
        reasons = [f"{name}: {verdicts[name].reason}" for name in self.explained if verdicts[name].reason]
        return {**record, REASON: "; ".join(reasons) or None}
