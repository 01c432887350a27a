"""The files of a prompt set at a path or a URL: found, and read a batch of rows at a time. Every mishap names its file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import places
from pipelines.config import UserError

BATCH_ROWS = 4096
BUFFER_BYTES = 2**22  # that are read at once, of each column
TAIL_BYTES = 2**16  # of a file: with its footer, if that is not a long one
ROW_BYTES = 64  # what a row costs in memory beside its text, about
COLUMNS = ("caption", "id", "category")
MAGIC = b"PAR1"


class Pieces(io.RawIOBase):
    """A file whose pieces are asked for one by one, so that each of them can be asked for again."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.num_bytes = place, places.size(place)
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
        piece = places.read(self.place, self._position, end) if end > self._position else b""
        self._position += len(piece)
        return piece


class ParquetFile:
    """A Parquet file, held to the footer that it had when it was opened first. Raises OSError, or UserError for its columns."""

    def __init__(self, place: str) -> None:
        self.place, self.name = place, place.rpartition("/")[2]
        self.num_bytes, self.footer_sha256 = 0, ""
        with self._opened() as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self.group_starts = np.cumsum([0, *rows])
        self.num_rows = int(self.group_starts[-1])
        _check_columns(schema, place)
        self.columns = [name for name in COLUMNS if name in schema.names]

    def tables(self, columns: Sequence[str], most: int) -> Iterator[tuple[int, pa.Table]]:
        """(first row, rows) from beginning to end, of `most` bytes or, where row groups are small, of a sixteenth or more."""
        held: list[pa.Table] = []
        start = 0
        with self._opened() as parquet:
            for begin, end in pairwise(self.group_starts):
                for table in self._batches(parquet, columns, begin, end):
                    held.append(table)
                    rows, num_bytes = sum(map(len, held)), sum(bytes_of(piece["caption"]) for piece in held)
                    if num_bytes >= most or (start + rows == end and num_bytes >= most // 16):
                        yield start, pa.concat_tables(held)
                        held, start = [], start + rows
        if held:
            yield start, pa.concat_tables(held)

    def rows(self, columns: Sequence[str], ranges: Iterable[tuple[int, int]]) -> Iterator[pa.Table]:
        """The rows of these ranges (first, one past the last), batch by batch: those of the `columns` that there are, as text.

        A row group is read from its beginning up to a range's end, but never held: memory is a batch and BUFFER_BYTES a column.
        """
        with self._opened() as parquet:
            for start, stop in ranges:
                yield from self._batches(parquet, columns, start, stop)

    def _batches(self, parquet: pq.ParquetFile, columns: Sequence[str], start: int, stop: int) -> Iterator[pa.Table]:
        first, last = np.searchsorted(self.group_starts, (start, stop - 1), side="right") - 1
        row = int(self.group_starts[first])
        chosen = [name for name in columns if name in self.columns]
        for batch in parquet.iter_batches(BATCH_ROWS, range(first, last + 1), chosen):
            cut = batch.slice(max(0, start - row), max(0, stop - max(row, start)))
            row += len(batch)
            if len(cut):
                table = pa.table({name: cut[name].cast(pa.string()) for name in chosen})
                table.validate(full=True)
                yield table
            if row >= stop:
                return

    def records(self) -> Iterator[dict[str, Any]]:
        """Every row with all its columns, without nulls."""
        with self._opened() as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}

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
        except places.StorageError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OSError(f"{self.place} cannot be read: {error}") from error


def bytes_of(captions: pa.ChunkedArray) -> int:
    """What rows weigh in memory, about."""
    return (pc.sum(pc.binary_length(captions)).as_py() or 0) + ROW_BYTES * len(captions)


def find_files(path: str, key: str) -> list[str]:
    """A set's file, or the Parquet files of its folder by name. Raises UserError if there is none, or if that cannot be known."""
    try:
        system, root = places.system_at(path, places.BRIEF)
        with places.in_words("read", path):
            if not system.isdir(root):
                system.info(root)
                return [path]
            names = sorted(place.rpartition("/")[2] for place in system.ls(root, detail=False))
    except FileNotFoundError:
        raise UserError(
            f"{key} = {path!r}: there is no such file; give a JSONL file with one prompt a line, each with a `caption`, "
            "a Parquet file, or a folder of them"
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
        raise ValueError("it is not a Parquet file, or it was cut; write it again")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        file.seek(max(0, file.num_bytes - length))
        tail = file.read()
    return tail[-length:]


def _check_columns(schema: pa.Schema, shown: str) -> None:
    """Raises UserError unless the columns that mean something are of a type that can be read so."""
    if "caption" not in schema.names:
        raise UserError(
            f"{shown}: no column `caption`; it has {', '.join(schema.names)}. Name the one with the captions so"
        )
    for name in {*COLUMNS} & {*schema.names}:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not text and (name == "caption" or not pa.types.is_integer(kind)):
            wanted = "text" if name == "caption" else "text or an integer"
            raise UserError(
                f"{shown}: the column `{name}` is {kind}, but {wanted} is wanted; write it so, or rename it"
            )
