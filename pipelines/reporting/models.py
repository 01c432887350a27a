"""report.html of a run of `evaluate`: one table of all models, and what they drew of the same prompts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.evaluating.table import cell, columns_of, figure_of, figures_of, interval_words, way_words
from pipelines.evaluation.comparison import guidance_words, known
from pipelines.reporting.facts import duration
from pipelines.reporting.page import frame, write_page
from pipelines.reporting.words import picture
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.grids import read_grid

Record = dict[str, Any]
MODELS = "models"  # in summary.json, by which a run of `evaluate` is known
IMAGES = 3  # of a prompt and a model, at most


def write_models_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what the folder holds, and return its path. Raises UserError if it holds no run."""
    return write_page(run_dir, "models.html.j2", models_context(RunFolder.open(run_dir)))


def models_context(folder: RunFolder) -> Record:
    """What the template shows, ready to be printed."""
    summary = folder.read_summary()
    measure, *others = figures_of(summary)
    ways = [way for _, way in columns_of(summary)]
    categories = list(dict.fromkeys(each for way in ways for each in figure_of(way, measure)["by_category"]))
    return {
        **frame(folder, folder.status()),
        "header": _header(summary),
        "notes": summary["notes"],
        "measure": measure,
        "share": measure in summary["shares"],
        "categories": categories,
        "others": [(name, name in summary["shares"]) for name in others],
        "rows": [_row(summary, name, way, categories) for name, way in columns_of(summary)],
        "models": [(name, said["what"]) for name, said in summary["models"].items()],
        "samples": _samples(folder, summary),
        "failed": summary["failed"],
        "reasons": summary["reasons"],
    }


def _header(summary: Record) -> list[tuple[str, str]]:
    facts = {
        "models": str(len(summary["models"])),
        "images": f"{summary['written']:,} of {summary['images']:,}",
        "lacking a figure": f"{summary['failed']:,}",
        "time": duration(summary["seconds"]),
        "digest": summary["digest"][:12],
    }
    return list(facts.items())


def _row(summary: Record, model: str, way: Record, categories: list[str]) -> Record:
    """A model in one way: its figures as they are printed. best: whether none is above it in the measure."""
    measure, *others = figures_of(summary)
    found = figure_of(way, measure)
    highest = max(filter(known, (figure_of(each, measure)["mean"] for _, each in columns_of(summary))), default=None)
    return {
        "model": model,
        "way": way_words(summary, way),
        "images": f"{found['images']:,}",
        "total": cell(summary, measure, found["mean"]),
        "interval": interval_words(summary, measure, way),
        "best": known(found["mean"]) and found["mean"] == highest,
        "categories": [cell(summary, measure, found["by_category"].get(category)) for category in categories],
        "others": [cell(summary, name, figure_of(way, name)["mean"]) for name in others],
    }


def _samples(folder: RunFolder, summary: Record) -> Record:
    """Of each prompt that is shown: a cell of images for each model and guidance scale."""
    columns = list(dict.fromkeys((each["model"], each["guidance"]) for each in summary["shown"]))
    rows: dict[str, Record] = {}
    for each in summary["shown"]:
        row = rows.setdefault(each["prompt_id"], {"caption": each["caption"], "cells": [[] for _ in columns]})
        path = folder.grid_path(each["picture"])
        grid = read_grid(path) if path.is_file() else []
        row["cells"][columns.index((each["model"], each["guidance"]))] = [
            picture(image) for line in grid for image in line.images[:IMAGES]
        ]
    return {"columns": [(model, guidance_words(scale)) for model, scale in columns], "rows": list(rows.values())}
