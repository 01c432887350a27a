"""report.html: a run folder as one page that opens offline (`python -m pipelines.report RUN`)."""

from __future__ import annotations

import math
import re
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pipelines.evaluation.comparison import Comparison, compare, known, measure_words
from pipelines.reporting.charts import Chart, marked, number
from pipelines.reporting.curves import Palette, learning_charts, machine_charts
from pipelines.reporting.facts import STATUS_WORDS, changes, duration, header, notes, seconds_of, starts, what_happened
from pipelines.reporting.rendering import rendered
from pipelines.reporting.snapshots import snapshots_of
from pipelines.reporting.timeline import timelines
from pipelines.reporting.words import echo_style, picture, scored_group
from pipelines.run_folder.event import Line
from pipelines.run_folder.events import Started
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.grids import GridRow, read_grid
from pipelines.run_folder.records import StepRecord

Record = dict[str, Any]
MOST_SNAPSHOTS = 5  # columns of sample images
NOTHING = "–"
CONTENTS = (  # anchor, title, the part of the context that must be there
    ("heldout", "Held out", "comparison"),
    ("samples", "Samples", "snapshots"),
    ("learning", "Learning", "learning"),
    ("judge", "What the judge saw", "groups"),
    ("machines", "Machines", "machine"),
    ("timeline", "Timeline", "timelines"),
    ("starts", "Where it ran", "starts"),
    ("events", "Events", "events"),
    ("recipe", "Recipe", "recipe"),
)


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what the folder holds so far, and return its path.

    Every part is left out when its data are missing. Raises UserError if the folder holds no run.
    """
    return write_page(run_dir, "report.html.j2", report_context(RunFolder.open(run_dir)))


def write_page(run_dir: Path, template: str, context: Record) -> Path:
    """`run_dir`/report.html from a template; it replaces the one before as a whole."""
    page = rendered(template, context)
    path = run_dir / "report.html"
    temporary = path.with_name("report.html.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def frame(folder: RunFolder, status: str) -> Record:
    """What the page of any run shows around its own: title, state, recipe, and when it was written."""
    recipe_toml = folder.read_recipe()
    return {
        "title": tomllib.loads(recipe_toml).get("run", {}).get("name") or folder.path.resolve().name,
        "status": status,
        "status_words": STATUS_WORDS.get(status, "unknown state"),
        "recipe": highlighted(recipe_toml),
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
    }


def report_context(folder: RunFolder) -> Record:
    """What the template shows, ready to be printed."""
    metrics, heldout, summary = folder.read_metrics(), folder.read_heldout(), folder.read_summary()
    state, recipe, events = folder.read_state(), tomllib.loads(folder.read_recipe()), folder.read_events()
    comparison = compare(heldout)
    palette = Palette.of(metrics, heldout)
    context = {
        **frame(folder, state.get("status", "unknown")),
        "header": header(metrics, summary, state, recipe),
        "notes": notes(summary, state, recipe, metrics, events),
        "cards": _cards(comparison, metrics, summary, state),
        "comparison": comparison if comparison.columns else None,
        "measure": measure_words(comparison.measure),
        "rows": _comparison_rows(comparison, palette),
        "others": _other_rows(comparison),
        "standard_error": _standard_error(comparison),
        "snapshots": _snapshots(folder.path / "samples"),
        "learning": _marked(learning_charts(metrics, heldout, palette), events),
        "machine": _marked(machine_charts(metrics), events),
        "timelines": timelines(metrics),
        "groups": _groups(folder),
        "legend": [(p, echo_style(p)) for p in (0.0, 0.05, 0.15, 0.25, 0.5, 0.75, 1.0)],
        "starts": starts(events),
        "events": what_happened([event for event in events if event.kind != Started.kind], state.get("started")),
    }
    return {**context, "contents": [(anchor, title) for anchor, title, part in CONTENTS if context[part]]}


def _marked(charts: Sequence[Chart], events: Sequence[Line]) -> list[Chart]:
    return [marked(chart, changes(events), "the recipe changed after step") for chart in charts]


def _cards(comparison: Comparison, metrics: Sequence[StepRecord], summary: Record, state: Record) -> list[Record]:
    """The headline figures: title, from, to, and a sentence."""
    cards: list[Record] = []
    unit, what = "%" if comparison.share else "", measure_words(comparison.measure)
    before, after = comparison.column("before"), comparison.column("after")
    if before and after:
        gain = gain_words(after.total, before.total, comparison.share)
        note = f"{gain}, {after.guidance}, over {len(after.values)} categories{_interval_words(comparison)}"
        cards.append(_card(what, number(before.total, unit), number(after.total, unit), note))
    best_before, guided = comparison.column("base_best"), comparison.column("after_best")
    best_after = guided or after
    if best_before and best_after:
        gain = gain_words(best_after.total, best_before.total, comparison.share)
        title = "Each at its best guidance" if guided else "Against the guided base"
        note = f"{gain} over the base at its best ({best_before.guidance})"
        cards.append(_card(title, number(best_before.total, unit), number(best_after.total, unit), note))
    cards += _reward_cards(metrics)
    seconds = seconds_of(summary, state)
    if seconds and metrics:
        speeds = [record.images_per_s for record in metrics if known(record.images_per_s)]
        speed = summary.get("images_per_s") or (sum(speeds) / len(speeds) if speeds else None)
        images = f"{summary['images']:,} images" if summary.get("images") else f"{len(metrics):,} steps"
        cards.append(_card("Time", "", duration(seconds), images + (f", {number(speed)} a second" if speed else "")))
    return cards


def _reward_cards(metrics: Sequence[StepRecord]) -> list[Record]:
    """The training reward; of several each by its name, since what they make together may be about 0 by construction."""
    names = list({name: None for record in metrics for name in record.rewards})
    figures = {f"Training reward {name}": [record.rewards.get(name) for record in metrics] for name in names}
    cards = []
    for title, values in (figures or {"Training reward": [record.reward_mean for record in metrics]}).items():
        if found := [value for value in values if known(value)]:
            share = max(1, len(found) // 10)
            first, last = sum(found[:share]) / share, sum(found[-share:]) / share
            note = f"mean of the first and last {share} steps" if share > 1 else "first and last step"
            cards.append(_card(title, number(first), number(last), note))
    return cards


def _card(title: str, before: str, after: str, note: str) -> Record:
    return {"title": title, "before": before, "after": after, "note": note}


def _interval_words(comparison: Comparison) -> str:
    """The interval of the gain, in words; nothing if it is not known."""
    if comparison.gain_interval is None:
        return ""
    low, high = (gain_words(edge, 0.0, comparison.share) for edge in comparison.gain_interval)
    return f"; 95 % interval {low.removesuffix(' points')} to {high}, by bootstrap over {comparison.prompts} prompts"


def _comparison_rows(comparison: Comparison, palette: Palette) -> list[Record]:
    """A row per category, and the macro mean last: its cells, the gain, and where its dots lie, in percent."""
    highest = max(
        (value for column in comparison.columns for value in column.values.values() if known(value)), default=1
    )
    full = 1.0 if comparison.share else highest or 1.0
    rows = []
    for category in [*comparison.categories, None]:
        values = {c.key: c.total if category is None else c.values.get(category) for c in comparison.columns}
        rows.append(
            {
                **_row(category or "all (macro mean)", values, comparison.share),
                "total": category is None,
                "color": None if category is None else palette.color(category),
                "dots": {key: 100 * max(0.0, value) / full for key, value in values.items() if known(value)},
            }
        )
    return rows


def _other_rows(comparison: Comparison) -> list[Record]:
    """A row for each further figure of the checker."""
    return [
        _row(name, {c.key: c.others.get(name) for c in comparison.columns}, name in comparison.shares)
        for name in comparison.others
    ]


def _row(name: str, values: dict[str, float | None], share: bool) -> Record:
    """Its cells, and the gain with how it is to be seen: nothing is neither a rise nor a fall."""
    before, after = values.get("before"), values.get("after")
    gain = gain_words(after, before, share)
    even = gain in (gain_words(0.0, 0.0, share), gain_words(-0.0, 0.0, share), NOTHING)
    return {
        "name": name,
        "cells": [number(value, "%" if share else "") for value in values.values()],
        "gain": gain,
        "change": "" if even else "fell" if gain.startswith("−") else "rose",
    }


def _standard_error(comparison: Comparison) -> str | None:
    """The largest standard error that a category's share can have, in points."""
    after = comparison.column("after") or comparison.column("before")
    if not (comparison.share and after and after.images and after.values):
        return None
    return f"{100 * 0.5 / math.sqrt(after.images / len(after.values)):.1f}"


def _snapshots(samples: Path) -> Record | None:
    """The sample grids side by side: `columns` (names), `rows` (caption, pictures of each column)."""
    grids = [(one.words, read_grid(one.path)) for one in snapshots_of(samples)]
    if not grids:
        return None
    if len(grids) > MOST_SNAPSHOTS:
        grids = [grids[round(i * (len(grids) - 1) / (MOST_SNAPSHOTS - 1))] for i in range(MOST_SNAPSHOTS)]
    by_caption = [{row.caption: row for row in rows} for _, rows in grids]
    captions = [row.caption for row in grids[0][1]]
    rows = [(caption, [_pictures(found.get(caption)) for found in by_caption]) for caption in captions]
    return {"columns": [name for name, _ in grids], "rows": rows}


def _pictures(row: GridRow | None) -> list[Record]:
    return [picture(image) for image in row.images] if row else []


def _groups(folder: RunFolder) -> list[list[Record]]:
    """The groups whose words are shown, in columns: the worst (lowest reward first), the best (highest first)."""
    records = sorted(folder.read_tokens(), key=lambda record: sum(filter(known, record["rewards_K"])))
    columns = ([r for r in records if r["which"] == "worst"], [r for r in reversed(records) if r["which"] == "best"])
    return [[scored_group(folder.path, record) for record in column] for column in columns if column]


def gain_words(after: float | None, before: float | None, share: bool) -> str:
    """A difference in words: points for shares."""
    if not (known(after) and known(before)):
        return NOTHING
    text = f"{100 * (after - before):+.1f} points" if share else f"{after - before:+.3f}"
    return text.replace("-", "−")


def highlighted(toml: str) -> Markup:
    """TOML with its tables, keys and strings marked for the style sheet."""
    lines = []
    for line in toml.rstrip().splitlines():
        table = re.fullmatch(r"\[.*\]", line.strip())
        key = re.match(r"([\w.\"-]+)( = )(.*)", line)
        if table:
            lines.append(Markup('<span class="table">{}</span>').format(line))
        elif key:
            lines.append(Markup('<span class="key">{}</span>{}{}').format(key[1], key[2], key[3]))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)
