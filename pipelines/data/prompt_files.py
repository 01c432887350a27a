"""The files of a prompt set at a path or a URL: found, and read a batch of rows at a time. Every mishap names its file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import files
from pipelines.data.prompt_fields import ROLES, Fields
from pipelines.data.prompt_text import foreign
from pipelines.recipe.errors import UserError

BATCH_ROWS = 4096
BUFFER_BYTES = 2**22  # that are read at once, of each column
TAIL_BYTES = 2**16  # of a file: with its footer, if that is not a long one
HEAD_BYTES = 64  # of a file that is none: by which it may be known
ROW_BYTES = 64  # what a row costs in memory beside its text, about
MAGIC = b"PAR1"


class Pieces(io.RawIOBase):
    """A file whose pieces are asked for one by one, so that each of them can be asked for again."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.num_bytes = place, files.size(place)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.num_bytes)[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self.num_bytes if size < 0 else min(self.num_bytes, self._position + size)
        piece = files.read(self.place, self._position, end) if end > self._position else b""
        self._position += len(piece)
        return piece


class ParquetFile:
    """A Parquet file, held to the footer that it had when it was opened first. Raises OSError, or UserError for its columns.

    `columns` are those that have a meaning, by ROLES, and `others` the rest, less those of bytes, such as pictures.
    """

    def __init__(self, place: str, fields: Fields) -> None:
        self.place, self.name = place, place.rpartition("/")[2]
        self.num_bytes, self.footer_sha256 = 0, ""
        with self._opened() as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self.group_starts = np.cumsum([0, *rows])
        self.num_rows = int(self.group_starts[-1])
        self.columns = _columns(schema, fields, place)
        kept = [field.name for field in schema if not _has_bytes(field.type)]
        self.others = [name for name in kept if name not in {*self.columns.values(), *ROLES}]

    def tables(self, roles: Sequence[str], most: int) -> Iterator[tuple[int, pa.Table]]:
        """(first row, rows) from beginning to end, of `most` bytes or, where row groups are small, of a sixteenth or more."""
        held: list[pa.Table] = []
        start = 0
        with self._opened() as parquet:
            for begin, end in pairwise(self.group_starts):
                for _, table, _ in self._batches(parquet, roles, (), begin, end):
                    held.append(table)
                    rows, num_bytes = sum(map(len, held)), sum(bytes_of(piece["caption"]) for piece in held)
                    if num_bytes >= most or (start + rows == end and num_bytes >= most // 16):
                        yield start, pa.concat_tables(held)
                        held, start = [], start + rows
        if held:
            yield start, pa.concat_tables(held)

    def rows(
        self, ranges: Iterable[tuple[int, int]], others: Sequence[str] = ()
    ) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        """The rows of these ranges (first, one past the last), batch by batch: (first row, ROLES, as text, and other columns).

        A row group is read from its beginning up to a range's end, but never held: memory is a batch and BUFFER_BYTES a column.
        """
        with self._opened() as parquet:
            for start, stop in ranges:
                yield from self._batches(parquet, ROLES, others, start, stop)

    def _batches(
        self, parquet: pq.ParquetFile, roles: Sequence[str], others: Sequence[str], start: int, stop: int
    ) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        first, last = np.searchsorted(self.group_starts, (start, stop - 1), side="right") - 1
        row = int(self.group_starts[first])
        chosen = {role: name for role, name in self.columns.items() if role in roles}
        for batch in parquet.iter_batches(BATCH_ROWS, range(first, last + 1), [*chosen.values(), *others]):
            cut = batch.slice(max(0, start - row), max(0, stop - max(row, start)))
            if len(cut):
                yield max(row, start), _texts(cut, chosen), _checked(pa.Table.from_batches([cut.select(others)]))
            row += len(batch)
            if row >= stop:
                return

    def records(self) -> Iterator[dict[str, Any]]:
        """Every row with its columns, without nulls, but for that of the caption."""
        caption = self.columns["caption"]
        with self._opened() as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=[*self.columns.values(), *self.others]):
                for row in _checked(pa.Table.from_batches([batch])).to_pylist():
                    yield {name: value for name, value in row.items() if value is not None or name == caption}

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """For reading; whatever is wrong with what is read is an OSError as well."""
        try:
            file = Pieces(self.place)
            footer = _footer(file)
            found = hashlib.sha256(footer).hexdigest()
            if found != (self.footer_sha256 or found):
                raise ValueError("it has changed since the run began; give the file back, or begin another run")
            self.num_bytes, self.footer_sha256 = file.num_bytes, found
            metadata = pq.read_metadata(pa.BufferReader(footer))
            yield pq.ParquetFile(file, metadata=metadata, pre_buffer=False, buffer_size=BUFFER_BYTES)
        except files.StorageError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OSError(f"{self.place} cannot be read: {error}") from error


def bytes_of(captions: pa.ChunkedArray) -> int:
    """What rows weigh in memory, about."""
    return (pc.sum(pc.binary_length(captions)).as_py() or 0) + ROW_BYTES * len(captions)


def find_files(path: str, key: str) -> list[str]:
    """A set's file, or the Parquet files of its folder by name. Raises UserError if there is none, or if that cannot be known."""
    try:
        system, root = files.system_at(path, files.BRIEF)
        with files.in_words("read", path):
            if not system.isdir(root):
                system.info(root)
                return [path]
            names = sorted(place.rpartition("/")[2] for place in system.ls(root, detail=False))
    except FileNotFoundError:
        raise UserError(
            f"{key} = {path!r}: there is no such file; give a file with one prompt a line (.jsonl, .txt, .csv, .tsv or .json), "
            "a Parquet file, or a folder of Parquet files"
        ) from None
    except (OSError, ValueError, ImportError) as error:  # a URL of a kind that is not known, or not installed
        raise UserError(f"{key} = {path!r}: {error}") from error
    names = [name for name in names if name.endswith(".parquet") and not name.startswith((".", "_"))]
    if not names:
        raise UserError(f"{key} = {path!r}: the folder holds no *.parquet files")
    return [f"{path.rstrip('/')}/{name}" for name in names]


def _footer(file: Pieces) -> bytes:
    """The end of a Parquet file, which names every piece of it by place and size."""
    file.seek(max(0, file.num_bytes - TAIL_BYTES))
    tail = file.read()
    if tail[-4:] != MAGIC or len(tail) < 12:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        what = "" if head.startswith(MAGIC) else foreign(head)
        raise ValueError(f"it is {what or 'not a Parquet file, or it was cut; write it again'}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        file.seek(max(0, file.num_bytes - length))
        tail = file.read()
    return tail[-length:]


def _columns(schema: pa.Schema, fields: Fields, place: str) -> dict[str, str]:
    """The column of each of ROLES. Raises UserError unless they are of a type that can be read so."""
    if twice := {name for name in schema.names if schema.names.count(name) > 1}:
        raise UserError(f"{place}: the column `{min(twice)}` comes twice; rename one of them")
    found = fields.of(schema.names, place)
    for role, name in found.items():
        kind = _plain(schema.field(name).type)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        label = role != "caption" and (pa.types.is_integer(kind) or pa.types.is_null(kind))
        if not text and not label:
            wanted = "text" if role == "caption" else "text or an integer"
            raise UserError(
                f"{place}: the column `{name}` is {kind}, but {wanted} is expected; write it so, or rename it"
            )
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _has_bytes(kind: pa.DataType) -> bool:
    """Whether there are bytes in a type, such as pictures."""
    kind = _plain(kind)
    inner = [kind.field(number).type for number in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return is_bytes or pa.types.is_binary_view(kind) or any(map(_has_bytes, inner))


def _texts(batch: pa.RecordBatch, chosen: Mapping[str, str]) -> pa.Table:
    """These columns under the names of their roles; ids and categories of white space alone are none."""
    table = _checked(pa.table({role: batch[name].cast(pa.string()) for role, name in chosen.items()}))
    for role in {*chosen} - {"caption"}:
        blank = pc.equal(pc.utf8_trim_whitespace(table[role]), "")
        known = pc.if_else(blank, pa.scalar(None, pa.string()), table[role])
        table = table.set_column(table.schema.get_field_index(role), role, known)
    return table


def _checked(table: pa.Table) -> pa.Table:
    """The table; text that is not UTF-8 raises ArrowInvalid."""
    table.validate(full=True)
    return table
