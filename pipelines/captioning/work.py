"""`caption` as the driver sees it: images are read, then a writer describes each, and the texts are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from actors.messages import Turn, WriteRequest, Written
from actors.seeds import seed_of
from actors.writer.actor import WriterActor
from cluster.tasks import Outcome
from pipelines.data.images import ImageRow
from pipelines.engine.messages import Ask, Unit
from pipelines.engine.work import Call, Refused
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.writer import WRITER
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record, Shards
from pipelines.running.reading import Pictures, ReadWork

FOLDER = "captions"
COLUMNS = pa.schema(
    {
        ROW: pa.int64(),
        "file_name": pa.string(),
        "caption": pa.string(),
        "words": pa.int64(),
        "cut": pa.bool_(),
        "tokens": pa.int64(),
        "tries": pa.map_(pa.string(), pa.int64()),
        REASON: pa.string(),
    }
)


class CaptionWork(ReadWork):
    """Each image of a set is read and described. What the shards hold already is not done again.

    A caption depends on the image, the query and a seed of its row alone. cut: by the writer's limit of tokens, or by that of words.
    """

    def __init__(self, recipe: CaptionRecipe, rows: Sequence[ImageRow], run: RunFolder) -> None:
        self.recipe, self.elastic = recipe, recipe.pools
        shards = Shards(run.path / FOLDER, len(rows), recipe.captions.shard_rows, COLUMNS, ["caption"])
        super().__init__(rows, shards, (WRITER,), recipe.captions.in_flight)
        self.written: dict[int, Written] = {}

    def show(self, ask: Ask, pictures: Pictures) -> Call:
        requests = tuple(map(self._request, ask.wanted, pictures.numbers))
        return Call(WriterActor.write, (requests, *pictures.handles))

    def answered(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        for unit, written in zip(ask.wanted, outcome.value, strict=True):
            self.written[unit.group] = written
        return dict.fromkeys(ask.wanted, 0)

    def record(self, number: int, group: int) -> Record:
        return self._record(number, self.written.pop(group))

    def given_up(self, number: int, group: int, reason: str) -> Record:
        self.written.pop(group, None)
        return self._record(number, Written(None, reason))

    def _request(self, unit: Unit, number: int) -> WriteRequest:
        """What is asked of an image: by its row's own seed."""
        seed = seed_of(self.recipe.run.seed, "caption", self.row(unit).file_name, self.number(unit))
        return WriteRequest((Turn("user", (number, self.recipe.captions.query)),), seed)

    def _record(self, number: int, written: Written) -> Record:
        """A row of the shards: the caption is null where there is none, and the reason says why."""
        limits, reason = self.recipe.captions, written.reason
        words = (written.text or "").split()
        if not reason and len(words) < limits.min_words:
            reason = f"only {len(words)} words: {' '.join(words)!r}"
        return {
            ROW: number,
            "file_name": self.rows[number].file_name,
            "caption": None if reason else " ".join(words[: limits.max_words]),
            "words": None if reason else min(len(words), limits.max_words),
            "cut": written.cut or len(words) > limits.max_words,
            "tokens": written.tokens,
            "tries": list(written.tries.items()),
            REASON: reason or None,
        }
