"""Several runs as one page that opens offline (`python -m pipelines.compare RUN RUN ...`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipelines.reporting.rendering import rendered
from pipelines.reporting.side_by_side.curves import color_of, curves, style_of
from pipelines.reporting.side_by_side.heldout import Block, blocks
from pipelines.reporting.side_by_side.recipes import differences
from pipelines.reporting.side_by_side.run import Run
from pipelines.reporting.side_by_side.samples import samples, unlike
from pipelines.reporting.side_by_side.words import (
    OVERVIEW,
    alike,
    category_rows,
    caveats,
    heldout_cells,
    heldout_titles,
    listed,
    overview,
)

Record = dict[str, Any]
CONTENTS = (  # anchor, title, the part of the context that must be there
    ("heldout", "Held out", "tables"),
    ("curves", "Curves", "axes"),
    ("samples", "Samples", "samples"),
    ("recipes", "Recipes", "several"),
)


def page_of(runs: Sequence[Run]) -> str:
    """The page's HTML. Parts of which no run has anything are left out."""
    found, shown = blocks(runs), samples(runs)
    context = {
        "title": listed([run.name for run in runs]) if len(runs) < 4 else f"{len(runs)} runs side by side",
        "status": "",
        "header": [],
        "looks": {run.name: f"{style_of(run)} c{color_of(run)}" for run in runs},
        "names": [run.name for run in runs],
        "titles": OVERVIEW,
        "overview": [(run, overview(run)) for run in runs],
        "notes": notes(runs),
        "tables": [_table(block) for block in found],
        "axes": curves(runs, found),
        "samples": shown,
        "unlike": unlike(shown),
        "recipes": differences(runs),
        "several": True,
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
    }
    contents = [(anchor, title) for anchor, title, part in CONTENTS if context[part]]
    return rendered("side_by_side/page.html.j2", {**context, "contents": contents})


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before the figures; what is said of every run, once."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for note in dict.fromkeys(run.notes):
            said.setdefault(note, []).append(run.name)
    found = [note if len(names) == len(runs) else f"{listed(names)}: {note}" for note, names in said.items()]
    if still := [run.name for run in runs if not run.metrics]:
        found.append(f"{listed(still)}: no trained steps, so no curves.")
    return [*alike(runs), *found]


def _table(block: Block) -> Record:
    return {
        "title": block.title,
        "titles": heldout_titles(block),
        "rows": [(row.run, heldout_cells(row, block)) for row in block.rows],
        "names": [row.run.name for row in block.rows],
        "categories": category_rows(block),
        "caveats": caveats(block),
    }
