"""After the last row, or a stop: the digest, the figures of each reward, and which rows the report shows."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.images import ImageRow
from pipelines.engine.digest import FIRST, next_digest
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record
from pipelines.running.samples import small_copy
from pipelines.scoring.columns import LOG_PROBS, TOKENS
from pipelines.scoring.work import ScoreWork

SHOWN = 12  # rows at each end of a reward
FAILURES_SHOWN = 200


@dataclass
class Figures:
    """Of a reward's scores, one after the other: count, mean and standard deviation (Welford's), and the rows at both ends."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    worst: list[tuple[float, int, Record]] = field(default_factory=list)  # heaps; by row where scores are equal
    best: list[tuple[float, int, Record]] = field(default_factory=list)

    def add(self, score: float, record: Record) -> None:
        """A score, and the row that it is of."""
        self.count += 1
        off = score - self.mean
        self.mean += off / self.count
        self.squares += off * (score - self.mean)
        for heap, key in ((self.worst, -score), (self.best, score)):
            heapq.heappush(heap, (key, -record[ROW], record))
            if len(heap) > SHOWN:
                heapq.heappop(heap)

    def words(self) -> dict[str, float | int | None]:
        """For summary.json."""
        if not self.count:
            return {"count": 0, "mean": None, "std": None, "min": None, "max": None}
        std = math.sqrt(self.squares / self.count)
        low, high = -max(self.worst)[0], max(self.best)[0]
        return {"count": self.count, "mean": self.mean, "std": std, "min": low, "max": high}


@dataclass
class Result:
    """What all rows come to; made in one pass, with a file in memory at a time."""

    digest: str = FIRST
    rows: int = 0
    failed: int = 0
    rewards: dict[str, Figures] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """The next row."""
        scores = [record[name] for name in self.rewards]
        self.digest = next_digest(self.digest, record[ROW], record["file_name"], record["caption"], *scores)
        self.rows += 1
        if record[REASON] is not None:
            self.failed += 1
            self.reasons[record[REASON]] += 1
            if len(self.failures) < FAILURES_SHOWN:
                self.failures.append({"file_name": record["file_name"], REASON: record[REASON]})
        for name, score in zip(self.rewards, scores, strict=True):
            if score is not None:
                self.rewards[name].add(score, record)


def result_of(records: Iterable[Record], rewards: Iterable[str]) -> Result:
    """Of rows in their order."""
    result = Result(rewards={name: Figures() for name in rewards})
    for record in records:
        result.add(record)
    return result


def write_summary(work: ScoreWork, folder: RunFolder, status: str) -> Result:
    """summary.json, and what the report shows; returns what all rows come to."""
    result, seconds = result_of(work.shards.records(), work.explained), work.seconds()
    scored = sum(1 for row in work.missing if row in work.shards.written)
    folder.summary(
        {
            "status": status,
            "digest": result.digest,
            "seconds": seconds,
            "rows": len(work.rows),
            "written": result.rows,
            "failed": result.failed,
            "images_per_s": scored / seconds,
            "rewards": {name: figures.words() for name, figures in result.rewards.items()},
            "notes": list(work.recipe.run.notes),
        }
    )
    shown = {name: _ends(figures, name, work.rows, folder) for name, figures in result.rewards.items()}
    folder.scores({"shown": shown, "failures": result.failures, "reasons": result.reasons.most_common(20)})
    return result


def _ends(figures: Figures, name: str, rows: Sequence[ImageRow], folder: RunFolder) -> Mapping[str, Any]:
    """The rows with the lowest scores, and those with the highest, from the end inwards."""
    ends = {"worst": sorted(figures.worst, reverse=True), "best": sorted(figures.best, reverse=True)}
    return {end: [_shown(record, name, rows, folder) for _, _, record in found] for end, found in ends.items()}


def _shown(record: Record, name: str, rows: Sequence[ImageRow], folder: RunFolder) -> Record:
    said = {"tokens": record.get(TOKENS.format(name)) or [], "log_probs_T": record.get(LOG_PROBS.format(name)) or []}
    kept = {key: record[key] for key in (ROW, "file_name", "caption")}
    return {**kept, "score": record[name], **said, "image": small_copy(rows[record[ROW]], record[ROW], folder)}
