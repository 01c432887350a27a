"""Rows of Parquet files as prompts: what has a meaning in memory, the other columns in a temporary file, mapped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.messages import Prompt
from pipelines.data.prompt_fields import id_of
from pipelines.data.prompt_files import ParquetFile

SEEN = r"[^\p{Z}\p{M}\p{C}]"  # a character that can be seen


@dataclass(frozen=True)
class Span:
    """Rows of a file, with how many of them count and what those weigh in memory, per category (`[C]`).

    `repeats` are the rows that do not count because they came before.
    """

    file: ParquetFile
    start: int
    stop: int
    rows_C: np.ndarray
    bytes_C: np.ndarray
    repeats: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class Block:
    """Rows with their ROLES in memory and their other columns on the disk; `pieces` says where the rows of each file begin."""

    table: pa.Table
    pieces: Sequence[tuple[int, ParquetFile, pa.Table | None]]

    def prompt(self, row: int) -> Prompt:
        """One row."""
        number = bisect_right(self.pieces, row, key=lambda piece: piece[0]) - 1
        first, file, others = self.pieces[number]
        extra = {name: others[name][row - first].as_py() for name in others.column_names} if others else {}
        return prompt_at(self.table, row, extra, file)


def read_block(spans: Sequence[Span], category: str | None) -> Block:
    """The rows of these spans that count. Raises OSError."""
    tables: list[pa.Table] = []
    pieces = []
    for file, of_file in groupby(spans, lambda span: span.file):
        first = sum(map(len, tables))
        pieces.append((first, file, on_disk(_counted_rows(file, list(of_file), category, tables))))
    return Block(pa.concat_tables(tables, promote_options="default"), pieces)


def _counted_rows(
    file: ParquetFile, spans: Sequence[Span], category: str | None, tables: list[pa.Table]
) -> Iterator[pa.Table]:
    """The other columns of the rows that count; those with a role go to `tables`."""
    repeats = np.concatenate([span.repeats for span in spans])
    for row, table, others in file.rows([(span.start, span.stop) for span in spans], file.others):
        kept = of_category(table, unrepeated(usable(table), row, repeats), category)
        tables.append(table.filter(kept))
        if file.others:
            yield others.filter(kept)


def on_disk(tables: Iterator[pa.Table]) -> pa.Table | None:
    """The rows of all tables in a temporary file without a name, mapped into memory: the system reads what is looked at."""
    first = next(tables, None)
    if first is None:
        return None
    with NamedTemporaryFile(prefix="echoray-prompts-") as file:
        try:
            with pa.ipc.new_stream(file.name, first.schema) as stream:
                for table in chain([first], tables):
                    stream.write_table(table)
        except OSError as error:
            raise OSError(
                f"{error}; other columns of prompts are kept in TMPDIR ({gettempdir()}): give it room"
            ) from error
        return pa.ipc.open_stream(pa.memory_map(file.name)).read_all()


def usable(table: pa.Table) -> pa.ChunkedArray:
    """Which rows have a caption of which something is seen, `[rows]`."""
    return pc.fill_null(pc.match_substring_regex(table["caption"], SEEN), False)


def unrepeated(found: pa.ChunkedArray, first: int, repeats: np.ndarray) -> pa.ChunkedArray:
    """Which of the `found` rows, which begin at row `first`, are none of the `repeats`, `[rows]`."""
    rows = np.arange(first, first + len(found))
    return pc.and_(found, pa.array(~np.isin(rows, repeats))) if len(repeats) else found


def of_category(table: pa.Table, found: pa.ChunkedArray, category: str | None) -> pa.ChunkedArray:
    """Which of the `found` rows are of a category (None: of any), `[rows]`."""
    return found if category is None else pc.and_(found, pc.equal(categories_of(table), category))


def categories_of(table: pa.Table) -> pa.ChunkedArray:
    """The category of each row, "all" where none is given."""
    if "category" not in table.column_names:
        return pa.chunked_array([pa.array(["all"] * len(table))])
    return pc.fill_null(table["category"], "all")


def prompt_at(table: pa.Table, row: int, extra: dict[str, Any], file: ParquetFile) -> Prompt:
    """One row, with a hash of its caption for an id that is not given, and under their own names what had others."""
    fields = {role: table[role][row].as_py() for role in table.column_names}
    given = {name: fields[role] for role, name in file.columns.items() if role != name}
    extra = {name: value for name, value in {**extra, **given}.items() if value is not None}
    caption = fields["caption"]
    return Prompt(fields.get("id") or id_of(caption), caption, fields.get("category") or "all", extra)
