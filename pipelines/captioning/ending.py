"""After the last image, or a stop: the prompt set, the digest, and figures of the captions' lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.captioning.prompts import HELDOUT, TRAIN, Prompts
from pipelines.captioning.work import CaptionWork
from pipelines.engine.digest import FIRST, next_digest
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, ROW, Record
from pipelines.running.samples import small_copy

SHOWN, FAILURES_SHOWN = 24, 200
BINS = 20


@dataclass
class Result:
    """What all rows come to; made in one pass, with a file in memory at a time."""

    prompts: Prompts
    digest: str = FIRST
    rows: int = 0
    cut: int = 0
    tokens: int = 0
    tries: Counter[str] = field(default_factory=Counter)
    words: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[Record] = field(default_factory=list)
    shown: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """The next row."""
        self.digest = next_digest(self.digest, record[ROW], record["file_name"], record["caption"])
        self.rows += 1
        self.tokens += record["tokens"]
        self.tries.update(dict(record["tries"]))
        if record[REASON] is not None:
            self.reasons[record[REASON]] += 1
            if len(self.failures) < FAILURES_SHOWN:
                self.failures.append({"file_name": record["file_name"], REASON: record[REASON]})
            return
        self.cut += record["cut"]
        self.words.append(record["words"])
        self.prompts.add(record["caption"], record["file_name"])
        if len(self.shown) < SHOWN:
            self.shown.append({key: record[key] for key in (ROW, "file_name", "caption", "words")})

    def lengths(self) -> dict[str, Any]:
        """Of the captions in words: mean and so on, and a histogram, counts between edges."""
        if not self.words:
            return {"mean": None, "std": None, "min": None, "median": None, "max": None, "counts": [], "edges": []}
        words = np.array(self.words)
        low, high = int(words.min()), int(words.max()) + 1
        counts, edges = np.histogram(words, bins=min(BINS, high - low), range=(low, high))
        figures = {"mean": words.mean(), "std": words.std(), "min": low, "median": np.median(words), "max": high - 1}
        return {name: float(value) for name, value in figures.items()} | {
            "counts": counts.tolist(),
            "edges": edges.tolist(),
        }


def write_prompts(work: CaptionWork, apart_from: Collection[str], folder: RunFolder, status: str) -> Result:
    """prompts/*.parquet, without the captions in `apart_from`, and summary.json; returns what all rows come to."""
    result = Result(Prompts(work.recipe.captions.heldout_share, apart_from))
    for record in work.shards.records():
        result.add(record)
    result.prompts.write(folder)
    seconds, done = work.seconds(), sum(1 for row in work.missing if row in work.shards.written)
    folder.summary(
        {
            "status": status,
            "digest": result.digest,
            "seconds": seconds,
            "rows": len(work.rows),
            "written": result.rows,
            "captions": len(result.words),
            "failed": result.rows - len(result.words),
            "cut": result.cut,
            "repeats": result.prompts.repeats,
            "left_out": result.prompts.left_out,
            TRAIN: len(result.prompts.parts[TRAIN]),
            HELDOUT: len(result.prompts.parts[HELDOUT]),
            "words": result.lengths(),
            "tokens": result.tokens,
            "tries": dict(result.tries),
            "images_per_s": done / seconds,
            "notes": list(work.recipe.run.notes),
            "shown": [{**row, "image": small_copy(work.rows[row[ROW]], row[ROW], folder)} for row in result.shown],
            "failures": result.failures,
            "reasons": result.reasons.most_common(20),
        }
    )
    return result
