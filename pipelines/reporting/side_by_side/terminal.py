"""Several runs as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import speaking
from pipelines.reporting.side_by_side.heldout import blocks
from pipelines.reporting.side_by_side.page import notes
from pipelines.reporting.side_by_side.recipes import by_value, differences
from pipelines.reporting.side_by_side.run import Run
from pipelines.reporting.side_by_side.words import OVERVIEW, caveats, heldout_cells, heldout_titles, overview


def show(runs: Sequence[Run], console: Console) -> None:
    """Prints what the page says, without its curves and pictures."""
    _print(console, "Runs", ["run", *OVERVIEW], [[run.name, *overview(run)] for run in runs])
    found = blocks(runs)
    for block in found:
        if not block.compares:
            continue
        rows = [[row.run.name, *heldout_cells(row, block)] for row in block.rows]
        _print(console, block.title, ["run", *heldout_titles(block)], rows)
        for caveat in caveats(block):
            speaking.say(console, caveat, style="dim")
        console.print()
    if differ := differences(runs):
        speaking.say(console, "", "What differs between the recipes", "bold")
        width = max(len(path) for path, _ in differ)
        for path, words in differ:
            speaking.say(console, f"  {path:<{width}}  {by_value([run.name for run in runs], words)}")
    else:
        speaking.say(console, "The recipes are equal.")
    console.print()
    if any(not block.compares for block in found):
        speaking.say(console, "Some held-out figures are of one run only, or of bases: they are on the page.")
    for note in notes(runs):
        speaking.say(console, note)


def _print(console: Console, title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    made = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(titles):
        made.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, row))
    speaking.say(console, "", title, "bold")
    console.print(made)
