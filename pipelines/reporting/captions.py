"""report.html of a run of `caption`: how long the captions are, the first images beside theirs, and what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.reporting.charts import number
from pipelines.reporting.facts import duration
from pipelines.reporting.page import frame, write_page
from pipelines.reporting.words import picture_in
from pipelines.run_folder.folder import RunFolder

Record = dict[str, Any]
CAPTIONS = "captions"  # in summary.json, by which a run of `caption` is known
FIGURES = ("mean", "std", "min", "median", "max")


def write_captions_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what the folder holds, and return its path. Raises UserError if it holds no run."""
    return write_page(run_dir, "captions.html.j2", captions_context(RunFolder.open(run_dir)))


def captions_context(folder: RunFolder) -> Record:
    """What the template shows, ready to be printed."""
    summary = folder.read_summary()
    words = summary["words"]
    return {
        **frame(folder, folder.status()),
        "header": _header(summary),
        "notes": summary["notes"],
        "figures": [(name, number(words[name])) for name in FIGURES] if words["counts"] else [],
        "bars": _bars(words),
        "shown": [_shown(folder.path, each) for each in summary["shown"]],
        "summary": summary,
    }


def _header(summary: Record) -> list[tuple[str, str]]:
    facts = {
        "captions": f"{summary['captions']:,} of {summary['rows']:,}",
        "to train on": f"{summary['train']:,}",
        "held out": f"{summary['heldout']:,}",
        "without one": f"{summary['failed']:,}",
        "time": duration(summary["seconds"]),
        "images a second": number(summary["images_per_s"]),
        "digest": summary["digest"][:12],
    }
    return list(facts.items())


def _bars(words: Record) -> list[Record]:
    """The histogram: of each bin the number of words it begins with, the captions in it, and its height in %."""
    most = max(words["counts"], default=1)
    firsts = words["edges"][:-1]
    return [
        {"first": f"{first:.0f}", "count": count, "height": 100 * count / most}
        for first, count in zip(firsts, words["counts"], strict=True)
    ]


def _shown(run: Path, row: Record) -> Record:
    return {**row, "picture": picture_in(run, row["image"])}
