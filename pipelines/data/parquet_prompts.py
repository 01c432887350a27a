"""Training prompts in Parquet files that need not fit in memory: measured once, then read a block at a time.

One pass at the start counts the rows of each span, a stretch of rows of a file that is read together. An epoch takes the spans in
an order of its own and shuffles the rows of as many as fit in a block. So what is held depends on BLOCK_BYTES, not on the set,
and any step's prompt is found by reading one block.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress

from actors.messages import Prompt
from actors.seeds import seed_of, stream_of
from cluster import speaking
from pipelines.data.prompt_blocks import (
    Block,
    Span,
    categories_of,
    of_category,
    prompt_at,
    read_block,
    unrepeated,
    usable,
)
from pipelines.data.prompt_fields import ROLES, repeats_said, two_captions
from pipelines.data.prompt_files import ParquetFile, bytes_of
from pipelines.data.repeats import Repeated, Rows
from pipelines.recipe.errors import UserError

BLOCK_BYTES = 2**26  # of the blocks of all categories together
SPANS_PER_BLOCK = 4  # at least, where row groups are large
RETRY_AFTER_S = (4.0, 8.0, 16.0, 32.0)
SAMPLE_ROWS = 1000
PLACES_SHOWN = 3


class ParquetPrompts:
    """A set of training prompts, whose other columns are in `Prompt.extra`. A row that repeats an earlier one is left out.

    `mix` names the categories that have epochs of their own; without any, all rows share theirs. `shared` are the `heldout`
    captions that come here as well. Raises UserError if a file cannot be read, if no row has a caption, and for an id with two captions.
    """

    def __init__(self, files: Sequence[ParquetFile], key: str, heldout: Sequence[str], mix: Sequence[str]) -> None:
        self.files, self.mix = files, tuple(mix)
        self.starts = np.cumsum(
            [0, *(file.num_rows for file in files)]
        )  # the number in the set of each file's first row
        self.shared: set[str] = set()
        self.categories: set[str] = set()
        self._blank, self._blank_places = 0, list[str]()
        try:
            spans, repeated = self._scan(key, pa.array(heldout, pa.string()))
            self._report_blank(key)
            self.spans = self._without_repeats(spans, repeated, key)
        except OSError as error:
            raise UserError(f"{key}: {error}") from error

    def __repr__(self) -> str:
        """Stands for the content, as a tuple's repr does: the files' names and sizes, and their footers."""
        found = [(file.name, file.num_bytes, file.footer_sha256) for file in self.files]
        renamed = sorted({(role, name) for file in self.files for role, name in file.columns.items() if role != name})
        return f"ParquetPrompts({hashlib.sha256(repr(found + renamed).encode()).hexdigest()})"

    def shuffled(self, category: str | None, seed: int) -> ShuffledRows:
        """The prompts of a category of the mix (None: all)."""
        return ShuffledRows(self.spans, self.mix, category, seed)

    def sample(self) -> list[Prompt]:
        """The first prompts."""
        span = self.spans[0]
        block = read_block([replace(span, stop=min(span.stop, span.start + SAMPLE_ROWS))], None)
        return [block.prompt(row) for row in range(len(block.table))]

    def _scan(self, key: str, heldout: pa.Array) -> tuple[list[Span], Repeated]:
        roles = ROLES if self.mix else ("caption", "id")
        most = BLOCK_BYTES // SPANS_PER_BLOCK // max(1, len(self.mix))
        spans, rows = [], Rows()
        with Progress(console=speaking.console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"reading the captions of {key}", total=int(self.starts[-1]))
            for file, offset in zip(self.files, self.starts[:-1], strict=True):
                for start, table in file.tables(roles, most):
                    found = usable(table)
                    spans.append(self._measure(file, start, table, found))
                    rows.note(*_numbered(table, found, int(offset) + start))
                    self._note_blank(file, start, np.flatnonzero(pc.invert(found)))
                    if len(heldout):
                        self.shared |= set(table["caption"].filter(pc.is_in(table["caption"], heldout)).to_pylist())
                    progress.advance(bar, len(table))
        return spans, rows.repeated()

    def _measure(self, file: ParquetFile, start: int, table: pa.Table, found: pa.ChunkedArray) -> Span:
        """The span of these rows, of which the `found` ones count."""
        captions_C = [table["caption"].filter(of_category(table, found, name)) for name in self.mix or (None,)]
        if self.mix:
            self.categories |= set(pc.unique(categories_of(table).filter(found)).to_pylist())
        rows_C, bytes_C = np.array([(len(captions), bytes_of(captions)) for captions in captions_C]).T
        return Span(file, start, start + len(table), rows_C, bytes_C)

    def _without_repeats(self, spans: list[Span], repeated: Repeated, key: str) -> list[Span]:
        """The spans, measured anew where rows do not count. Raises UserError for an id with two captions."""
        if repeated.conflict:
            (_, before), (where, prompt) = (self._at(row) for row in repeated.conflict)
            place = self._at(repeated.conflict[0])[0]
            raise UserError(two_captions(where, prompt.id, before.caption, prompt.caption, f" ({place})"))
        rows = repeated.rows
        if not len(rows):
            return spans
        places = [self._at(row)[0] for row in rows[:PLACES_SHOWN]]
        said = repeats_said(len(rows), int(self.starts[-1]) - self._blank, key, places)
        speaking.say(speaking.console(stderr=True), said, "warning", "yellow")
        offsets = dict(zip(self.files, self.starts[:-1], strict=True))
        return [self._measured_again(span, rows - offsets[span.file]) for span in spans]

    def _measured_again(self, span: Span, repeats: np.ndarray) -> Span:
        first, last = np.searchsorted(repeats, (span.start, span.stop))
        if first == last:
            return span
        table = pa.concat_tables(table for _, table, _ in span.file.rows([(span.start, span.stop)]))
        found = unrepeated(usable(table), span.start, repeats[first:last])
        return replace(self._measure(span.file, span.start, table, found), repeats=repeats[first:last])

    def _at(self, row: int) -> tuple[str, Prompt]:
        """Where a row of the set stands, and its prompt."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        file, row = self.files[number], row - int(self.starts[number])
        table = next(table for _, table, _ in file.rows([(row, row + 1)]))
        return f"{file.place}, row {row + 1}", prompt_at(table, 0, {}, file)

    def _note_blank(self, file: ParquetFile, start: int, rows: np.ndarray) -> None:
        self._blank += len(rows)
        room = PLACES_SHOWN - len(self._blank_places)
        self._blank_places += [f"{file.place}, row {start + row + 1}" for row in rows[:room]]

    def _report_blank(self, key: str) -> None:
        total = sum(file.num_rows for file in self.files)
        if self._blank == total:
            raise UserError(
                f"{key}: " + (f"none of its {total} rows has a caption" if total else "it holds no prompts")
            )
        if self._blank:
            speaking.say(
                speaking.console(stderr=True),
                f"{self._blank} of {total} rows of {key} have no caption and are left out: "
                f"{'; '.join(self._blank_places)}{' ...' if self._blank > PLACES_SHOWN else ''}",
                "warning",
                "yellow",
            )


def _numbered(
    table: pa.Table, found: pa.ChunkedArray, first: int
) -> tuple[np.ndarray, pa.ChunkedArray, pa.ChunkedArray | None]:
    """The numbers in the set of the `found` rows, their captions and ids."""
    kept = table.filter(found)
    return first + np.flatnonzero(found), kept["caption"], kept["id"] if "id" in kept.column_names else None


class ShuffledRows:
    """The prompts of a category (None: all) of `mix`, in a new order every epoch. The last two blocks are kept."""

    def __init__(self, spans: Sequence[Span], mix: Sequence[str], category: str | None, seed: int) -> None:
        column = 0 if category is None else mix.index(category)
        self.spans = [span for span in spans if span.rows_C[column]]
        self.rows_S = np.array([span.rows_C[column] for span in self.spans], np.int64)
        self.bytes_S = np.array([span.bytes_C[column] for span in self.spans], np.int64)
        self.most = BLOCK_BYTES // max(1, len(mix))
        self.category, self.seed = category, seed
        self._blocks = lru_cache(maxsize=2)(self._cut)
        self._block = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return int(self.rows_S.sum())

    def prompt(self, epoch: int, place: int) -> Prompt:
        """The prompt at a place of an epoch. Raises OSError if its file cannot be read, about a minute after the first try."""
        starts, _ = self._blocks(epoch)
        number = int(np.searchsorted(starts, place, side="right")) - 1
        block, order = self._block(epoch, number)
        return block.prompt(int(order[place - starts[number]]))

    def _cut(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The place where each block of an epoch begins, and the numbers of its spans."""
        spans = self._permutation(len(self.spans), "spans", epoch)
        cuts, held = [], 0
        for position, size in enumerate(self.bytes_S[spans]):
            if held and held + size > self.most:
                cuts.append(position)
                held = 0
            held += size
        blocks = np.split(spans, cuts)
        rows = [self.rows_S[block].sum() for block in blocks]
        return np.cumsum([0, *rows[:-1]]), blocks

    def _read(self, epoch: int, number: int) -> tuple[Block, np.ndarray]:
        """The rows of a block that count, and their order."""
        chosen = [self.spans[span] for span in np.sort(self._blocks(epoch)[1][number])]
        block = tried_again(lambda: read_block(chosen, self.category))
        return block, self._permutation(len(block.table), "rows", epoch, number)

    def _permutation(self, length: int, *purpose: str | int) -> np.ndarray:
        seed = seed_of(self.seed, "order", self.category or "", *purpose)
        return stream_of(seed).permutation(length)


def tried_again(read: Callable[[], Block]) -> Block:
    """The result of `read`, which is called again after each of RETRY_AFTER_S. Raises the last OSError."""
    for delay in RETRY_AFTER_S:
        try:
            return read()
        except OSError:
            time.sleep(delay)
    return read()
