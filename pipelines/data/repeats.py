"""Prompts that come more than once in a set of any size: found by hashes, which lie in a temporary file.

Prompts with one id would share all random numbers. A row is noted by 24 bytes on the disk; in memory there is one of BUCKETS parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa

BUCKETS = 256
WITHOUT_ID = np.int64(-7046029254386353131)  # sets hashes of captions apart from those of ids


@dataclass(frozen=True)
class Repeated:
    """The numbers of rows that repeat an earlier one, in order; and a row, after the earlier one that has its id and not its caption."""

    rows: np.ndarray
    conflict: tuple[int, int] | None


class Rows:
    """Notes rows piece by piece, then finds those that come again."""

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="echoray-prompts-")  # noqa: SIM115
        self._pieces: list[
            np.ndarray
        ] = []  # where each bucket of a piece begins in the file, and where the last one ends

    def note(self, rows: np.ndarray, captions: pa.ChunkedArray, ids: pa.ChunkedArray | None) -> None:
        """Rows by their numbers, with their captions, and their ids, which may be null. Raises OSError."""
        by_caption = hashes(captions)
        identities = by_caption * WITHOUT_ID
        if ids is not None:
            given = ids.is_valid().to_numpy(zero_copy_only=False)
            identities = np.where(given, hashes(ids), identities)
        buckets = identities.view(np.uint64) // np.uint64(2**64 // BUCKETS)
        order = np.argsort(buckets, kind="stable")
        records = np.stack([identities, rows, by_caption], axis=1)[order]
        starts = np.searchsorted(buckets[order], np.arange(BUCKETS + 1, dtype=np.uint64))
        self._pieces.append(self._file.tell() + starts * records.itemsize * 3)
        self._file.write(records.tobytes())

    def repeated(self) -> Repeated:
        """What came before. Raises OSError."""
        with self._file:
            found = [self._of_bucket(bucket) for bucket in range(BUCKETS)]
        rows = np.sort(np.concatenate([part.rows for part in found]))
        conflicts = [part.conflict for part in found if part.conflict]
        return Repeated(rows, min(conflicts, key=lambda pair: pair[1], default=None))

    def _of_bucket(self, bucket: int) -> Repeated:
        identity, row, caption = self._bucket(bucket)
        if not len(row):
            return Repeated(row, None)
        order = np.lexsort((row, identity))
        identity, row, caption = identity[order], row[order], caption[order]
        begins = np.r_[True, identity[1:] != identity[:-1]]
        first = np.maximum.accumulate(np.where(begins, np.arange(len(row)), 0))
        others = np.flatnonzero(caption != caption[first])
        conflicts = [(int(row[first[at]]), int(row[at])) for at in others]
        return Repeated(row[~begins], min(conflicts, key=lambda pair: pair[1], default=None))

    def _bucket(self, bucket: int) -> np.ndarray:
        return np.concatenate([np.empty((3, 0), np.int64), *self._read(bucket)], axis=1)

    def _read(self, bucket: int) -> Iterator[np.ndarray]:
        for piece in self._pieces:
            start, end = int(piece[bucket]), int(piece[bucket + 1])
            self._file.seek(start)
            yield np.frombuffer(self._file.read(end - start), np.int64).reshape(-1, 3).T


def hashes(texts: pa.ChunkedArray) -> np.ndarray:
    """A hash of each text, the same within this process."""
    pieces = (chunk.cast(pa.binary()).to_numpy(zero_copy_only=False) for chunk in texts.chunks)
    found = [np.fromiter(map(hash, piece), np.int64, len(piece)) for piece in pieces]
    return np.concatenate([np.empty(0, np.int64), *found])
