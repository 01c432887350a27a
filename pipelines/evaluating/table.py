"""The table for the end of a run: every model's figures side by side, as far as they are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipelines.evaluation.comparison import guidance_words, known

Record = dict[str, Any]


def columns_of(summary: Record) -> Iterator[tuple[str, Record]]:
    """(model, its figures in one way), in the order of the recipe."""
    for name, model in summary["models"].items():
        yield from ((name, way) for way in model["ways"])


def way_words(summary: Record, way: Record) -> str:
    """How images were drawn, as far as it differs: the guidance scale, and the size where there are several."""
    sizes = {(each["height"], each["width"]) for _, each in columns_of(summary)}
    size = f", {way['height']} x {way['width']}" if len(sizes) > 1 else ""
    return guidance_words(way["guidance"]) + size


def figure_of(way: Record, name: str) -> Record:
    """Of a way: the mean, interval and means by category of a figure of the checker, or of a reward."""
    return way["checks"].get(name) or way["rewards"][name]


def figures_of(summary: Record) -> list[str]:
    """The names of all figures: that by which models are compared, the checker's others, and the rewards."""
    _, way = next(columns_of(summary))
    return list(dict.fromkeys([summary["measure"], *way["checks"], *way["rewards"]]))


def models_table(summary: Record) -> Table:
    """By category that by which models are compared, its mean over categories with the interval, and the other figures."""
    measure, *others = figures_of(summary)
    title = f"Held-out {measure}{_unit(summary, measure)}"
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("category", no_wrap=True)
    ways = [way for _, way in columns_of(summary)]
    for name, way in columns_of(summary):
        table.add_column(Text(f"{name}\n{way_words(summary, way)}"), justify="right")
    for category in dict.fromkeys(each for way in ways for each in figure_of(way, measure)["by_category"]):
        values = [figure_of(way, measure)["by_category"].get(category) for way in ways]
        table.add_row(Text(category), *(cell(summary, measure, value) for value in values))
    table.add_section()
    table.add_row("macro", *(cell(summary, measure, figure_of(way, measure)["mean"]) for way in ways), style="bold")
    table.add_row("95 % interval", *(interval_words(summary, measure, way) for way in ways), style="dim")
    for name in others:
        values = [figure_of(way, name)["mean"] for way in ways]
        table.add_row(Text(name + _unit(summary, name)), *(cell(summary, name, value) for value in values), style="dim")
    return table


def interval_words(summary: Record, name: str, way: Record) -> str:
    """The interval of a figure's mean; a dash where it is not known."""
    interval = figure_of(way, name)["interval"]
    return " to ".join(cell(summary, name, edge) for edge in interval) if interval else "–"


def cell(summary: Record, name: str, value: float | None) -> str:
    """A figure's value: shares in percent."""
    if not known(value):
        return "–"
    return f"{100 * value:.1f}" if name in summary["shares"] else f"{value:.3f}"


def _unit(summary: Record, name: str) -> str:
    return ", %" if name in summary["shares"] else ""
