"""The tables for the end of a run: every model's figures side by side, as far as they are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
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
    names = (name for _, way in columns_of(summary) for name in (*way["checks"], *way["rewards"]))
    return list(dict.fromkeys([summary["measure"], *names]))


def models_tables(summary: Record) -> Group:
    """A row for each model in each way: its figures, and below by category that by which models are compared."""
    measure, *others = figures_of(summary)
    title = f"Held-out {measure}{_unit(summary, measure)}"
    table = _table(title, [measure, "95 % interval", *(name + _unit(summary, name) for name in others)])
    found = {name: None for _, way in columns_of(summary) for name in figure_of(way, measure)["by_category"]}
    by_category = _table("By category", list(found))
    for model, way in columns_of(summary):
        named, figure = (model, way_words(summary, way)), figure_of(way, measure)
        more = (cell(summary, name, figure_of(way, name)["mean"]) for name in others)
        mean = Text(cell(summary, measure, figure["mean"]), style="bold")
        table.add_row(*named, mean, interval_words(summary, measure, way), *more)
        by_category.add_row(*named, *(cell(summary, measure, figure["by_category"].get(name)) for name in found))
    return Group(table, by_category)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("model", no_wrap=True)
    table.add_column("drawn with", no_wrap=True)
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
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
