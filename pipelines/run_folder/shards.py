"""Parquet files with what a program that trains nothing has done, row by row. A run that goes on does what is not written there yet.

Each file is of a fixed range of rows, and is replaced as a whole: when its range is complete, and with what there is of it every
KEEP_EVERY_S and when a run stops. So the finished files do not depend on who did what when.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run_folder.json_files import replace

ROW, REASON = "row", "reason"  # columns that all have: a row's number, and why it failed
Record = dict[str, Any]
KEEP_EVERY_S = 20.0  # so much of the work does a kill lose


class Shards:
    """The files of so many rows, `size` to each. `figures`: the columns that are found out.

    written: the numbers of the rows that are done. A row that failed before this start is not: it is tried again. failed: how
    many of them have a reason; empty: how many have no figure at all.
    """

    def __init__(self, folder: Path, rows: int, size: int, schema: pa.Schema, figures: Collection[str]) -> None:
        self.folder, self.rows, self.size, self.schema, self.figures = folder, rows, size, schema, figures
        self.written: set[int] = set()
        self.failed = self.empty = 0
        self._open: dict[int, dict[int, Record]] = {}  # by shard: its rows, while some are missing
        self._changed: set[int] = set()
        self._kept_at = time.monotonic()
        for shard in range(-(-rows // size)):
            self._take_up(shard)

    def add(self, *records: Record) -> None:
        """Rows of one file are done, and come into it together. It is written if they were the last ones."""
        shard = records[0][ROW] // self.size
        self._open.setdefault(shard, {}).update((record[ROW], record) for record in records)
        self._changed.add(shard)
        for record in records:
            self._note(record)
        if len(self._open[shard]) == len(self._range(shard)):
            self._write(shard)
            del self._open[shard]
        if time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            self.finish()

    def finish(self) -> None:
        """Writes what there is of the others."""
        for shard in sorted(self._changed):
            self._write(shard)
        self._kept_at = time.monotonic()

    def missing(self) -> list[int]:
        """The rows that are still to be done."""
        return [row for row in range(self.rows) if row not in self.written]

    def records(self) -> Iterator[Record]:
        """All rows that are written, in order; a file is in memory at a time."""
        for shard in range(-(-self.rows // self.size)):
            yield from self._read(shard)

    def _take_up(self, shard: int) -> None:
        records = [record for record in self._read(shard) if record[REASON] is None]
        for record in records:
            self._note(record)
        if records and len(records) < len(self._range(shard)):
            self._open[shard] = {record[ROW]: record for record in records}

    def _note(self, record: Record) -> None:
        self.written.add(record[ROW])
        self.failed += record[REASON] is not None
        self.empty += all(record[name] is None for name in self.figures)

    def _read(self, shard: int) -> list[Record]:
        """The rows of a file; none of one that is missing or damaged, which is written again."""
        path = self._path(shard)
        try:
            return pq.read_table(path, schema=self.schema).to_pylist() if path.is_file() else []
        except (pa.ArrowException, OSError):
            return []

    def _write(self, shard: int) -> None:
        found = self._open[shard]
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([found[row] for row in sorted(found)], self.schema), file)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self._path(shard), file.getvalue())
        self._changed.discard(shard)

    def _range(self, shard: int) -> range:
        return range(shard * self.size, min(self.rows, (shard + 1) * self.size))

    def _path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard * self.size:08d}.parquet"
