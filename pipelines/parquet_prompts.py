"""Training prompts in Parquet files that need not fit in memory: measured once, then read a block at a time.

One pass at the start counts the rows of each span, a stretch of rows of a file that is read together. An epoch takes the spans in
an order of its own and shuffles the rows of as many as fit in a block. So what is held depends on BLOCK_BYTES, not on the set,
and any step's prompt is found by reading one block.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress

from actors.messages import Prompt
from actors.seeds import seed_of
from cluster import speaking
from pipelines.config import UserError
from pipelines.prompt_files import COLUMNS, ParquetFile, bytes_of

BLOCK_BYTES = 2**26  # of the blocks of all categories together
SPANS_PER_BLOCK = 4  # at least, where row groups are large
RETRY_AFTER_S = (4.0, 8.0, 16.0, 32.0)
SAMPLE_ROWS = 1000
PLACES_SHOWN = 3


@dataclass(frozen=True)
class Span:
    """Rows of a file, with how many of them count and what those weigh in memory, per category (`[C]`)."""

    file: ParquetFile
    start: int
    stop: int
    rows_C: np.ndarray
    bytes_C: np.ndarray


class ParquetPrompts:
    """A set of training prompts: a row is one, even if its caption has come before. Columns but COLUMNS are left unread.

    `mix` names the categories that have epochs of their own; without any, all rows share theirs. `shared` are the `heldout`
    captions that come here as well. Raises UserError if a file cannot be read, or if no row has a caption.
    """

    def __init__(self, files: Sequence[ParquetFile], key: str, heldout: Sequence[str], mix: Sequence[str]) -> None:
        self.files, self.mix = files, tuple(mix)
        self.shared: set[str] = set()
        self.categories: set[str] = set()
        self._blank, self._blank_places = 0, list[str]()
        try:
            self.spans = self._scan(key, pa.array(heldout, pa.string()))
        except OSError as error:
            raise UserError(f"{key}: {error}") from error
        self._report_blank(key)

    def __repr__(self) -> str:
        """Stands for the content, as a tuple's repr does: the files' names and sizes, and their footers."""
        found = [(file.name, file.num_bytes, file.footer_sha256) for file in self.files]
        return f"ParquetPrompts({hashlib.sha256(repr(found).encode()).hexdigest()})"

    def shuffled(self, category: str | None, seed: int) -> ShuffledRows:
        """The prompts of a category of the mix (None: all)."""
        return ShuffledRows(self.spans, self.mix, category, seed)

    def sample(self) -> list[Prompt]:
        """The first prompts."""
        span = self.spans[0]
        tables = span.file.rows(COLUMNS, [(span.start, min(span.stop, span.start + SAMPLE_ROWS))])
        return [prompt_at(table, int(row)) for table in tables for row in np.flatnonzero(usable(table))]

    def _scan(self, key: str, heldout: pa.Array) -> list[Span]:
        columns = ("caption", "category") if self.mix else ("caption",)
        most = BLOCK_BYTES // SPANS_PER_BLOCK // max(1, len(self.mix))
        spans = []
        with Progress(console=speaking.console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"reading the captions of {key}", total=sum(file.num_rows for file in self.files))
            for file in self.files:
                for start, table in file.tables(columns, most):
                    spans.append(self._measure(file, start, table))
                    if len(heldout):
                        self.shared |= set(table["caption"].filter(pc.is_in(table["caption"], heldout)).to_pylist())
                    progress.advance(bar, len(table))
        return spans

    def _measure(self, file: ParquetFile, start: int, table: pa.Table) -> Span:
        found = usable(table)
        captions_C = [table["caption"].filter(counted(table, found, name)) for name in self.mix or (None,)]
        self._note_blank(file, start, np.flatnonzero(pc.invert(found)))
        if self.mix:
            self.categories |= set(pc.unique(categories_of(table).filter(found)).to_pylist())
        rows_C, bytes_C = np.array([(len(captions), bytes_of(captions)) for captions in captions_C]).T
        return Span(file, start, start + len(table), rows_C, bytes_C)

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
        table, order = self._block(epoch, number)
        return prompt_at(table, int(order[place - starts[number]]))

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

    def _read(self, epoch: int, number: int) -> tuple[pa.Table, np.ndarray]:
        """The rows of a block, and their order."""
        chosen = [self.spans[span] for span in np.sort(self._blocks(epoch)[1][number])]
        table = tried_again(lambda: self._rows(chosen))
        return table, self._permutation(len(table), "rows", epoch, number)

    def _rows(self, spans: Sequence[Span]) -> pa.Table:
        """The rows of these spans that count. Raises OSError."""
        tables = (
            table
            for file, spans_of_it in groupby(spans, lambda span: span.file)
            for table in file.rows(COLUMNS, [(span.start, span.stop) for span in spans_of_it])
        )
        kept = (table.filter(counted(table, usable(table), self.category)) for table in tables)
        return pa.concat_tables(kept, promote_options="default")

    def _permutation(self, length: int, *purpose: str | int) -> np.ndarray:
        seed = seed_of(self.seed, "order", self.category or "", *purpose)
        return np.random.Generator(np.random.PCG64(seed)).permutation(length)


def tried_again(read: Callable[[], pa.Table]) -> pa.Table:
    """The result of `read`, which is called again after each of RETRY_AFTER_S. Raises the last OSError."""
    for delay in RETRY_AFTER_S:
        try:
            return read()
        except OSError:
            time.sleep(delay)
    return read()


def usable(table: pa.Table) -> pa.ChunkedArray:
    """Which rows have a caption with more than white space, `[rows]`."""
    captions = table["caption"]
    blank = pc.or_(pc.equal(pc.binary_length(captions), 0), pc.utf8_is_space(captions))
    return pc.fill_null(pc.invert(blank), False)


def counted(table: pa.Table, found: pa.ChunkedArray, category: str | None) -> pa.ChunkedArray:
    """Which of the `found` rows are of a category (None: of any), `[rows]`."""
    return found if category is None else pc.and_(found, pc.equal(categories_of(table), category))


def categories_of(table: pa.Table) -> pa.ChunkedArray:
    """The category of each row, "all" where none is given."""
    if "category" not in table.column_names:
        return pa.chunked_array([pa.array(["all"] * len(table))])
    return pc.fill_null(table["category"], "all")


def prompt_at(table: pa.Table, row: int) -> Prompt:
    """One row, with a hash of its caption for an id that is not given."""
    fields = {name: table[name][row].as_py() for name in table.column_names}
    caption = fields["caption"]
    return Prompt(fields.get("id") or id_of(caption), caption, fields.get("category") or "all")


def id_of(caption: str) -> str:
    """The id of a prompt that was given none."""
    return hashlib.sha256(caption.encode()).hexdigest()[:16]
