"""report.html of a run of `score`: each reward's figures, the images at both ends with their words coloured, and what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.reporting.charts import number
from pipelines.reporting.facts import duration
from pipelines.reporting.page import frame, write_page
from pipelines.reporting.words import coloured, echo_style, picture_in, reward_words, words_of
from pipelines.run_folder.folder import RunFolder

Record = dict[str, Any]
ENDS = {"worst": "lowest", "best": "highest"}
LEGEND = (0.0, 0.05, 0.15, 0.25, 0.5, 0.75, 1.0)
FIGURES = ("count", "mean", "std", "min", "max")


def write_scores_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what the folder holds, and return its path. Raises UserError if it holds no run."""
    return write_page(run_dir, "scores.html.j2", scores_context(RunFolder.open(run_dir)))


def scores_context(folder: RunFolder) -> Record:
    """What the template shows, ready to be printed."""
    summary, scores = folder.read_summary(), folder.read_scores()
    return {
        **frame(folder, folder.status()),
        "header": _header(summary),
        "notes": summary.get("notes", []),
        "figures": [(name, [_figure(said[key]) for key in FIGURES]) for name, said in summary["rewards"].items()],
        "columns": FIGURES,
        "shown": {name: _ends(folder.path, ends) for name, ends in scores["shown"].items()},
        "explained": {name for name, ends in scores["shown"].items() if any(row["tokens"] for row in ends["best"])},
        "legend": [(p, echo_style(p)) for p in LEGEND],
        "failures": scores["failures"],
        "reasons": scores["reasons"],
        "failed": summary["failed"],
    }


def _header(summary: Record) -> list[tuple[str, str]]:
    facts = {
        "rows": f"{summary['written']:,} of {summary['rows']:,}",
        "lacking a score": f"{summary['failed']:,}",
        "time": duration(summary["seconds"]),
        "images a second": number(summary["images_per_s"]),
        "digest": summary["digest"][:12],
    }
    return list(facts.items())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else number(value)


def _ends(run: Path, ends: Record) -> list[tuple[str, list[Record]]]:
    """The rows at both ends of a reward, with their captions' words coloured where the tokens' figures are known."""
    return [(words, [_row(run, row) for row in ends[end]]) for end, words in ENDS.items()]


def _row(run: Path, row: Record) -> Record:
    tokens = row["tokens"]
    words = coloured(words_of(tokens), row["log_probs_T"]) if tokens else coloured([row["caption"]], [None])
    shown = picture_in(run, row["image"])
    if not tokens:
        words = [{**word, "title": ""} for word in words]
    return {"picture": shown, "reward": reward_words(row["score"]), "words": words, "file_name": row["file_name"]}
