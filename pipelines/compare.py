"""Several runs side by side, as one page and as tables in the terminal: `python -m pipelines.compare RUN RUN ...`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cluster import speaking
from cluster.storage import files
from pipelines.recipe.errors import UserError
from pipelines.reporting.side_by_side.page import page_of
from pipelines.reporting.side_by_side.run import Run, read_run, same_run, unique_names
from pipelines.reporting.side_by_side.terminal import show
from pipelines.run_folder.folder import EVENTS, HELDOUT, METRICS, RECIPE, STATUS, SUMMARY
from pipelines.run_folder.location import brought, check_writable, resolved

WIDTH = 160  # columns of the tables, at least
MOST_RUNS = 16  # that colours and dashes tell from each other
READ = (RECIPE, METRICS, HELDOUT, EVENTS, STATUS, SUMMARY)


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compare", description="Show several runs side by side, as one page and as tables."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder or URL that --out named; two or more")
    parser.add_argument(
        "--out", default="comparison.html", metavar="FILE", help="the page, a path or URL (comparison.html)"
    )
    return parser


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare runs, print tables and the page's path; 2 for a user's mistake."""
    options = make_parser().parse_args(arguments)
    out = page_place(options.out)
    runs = read_runs(options.runs)
    console = speaking.console(width=max(WIDTH, speaking.console().width))
    show(runs, console)
    files.write(out, memoryview(page_of(runs).encode()))
    speaking.say(console, out)
    return 0


def read_runs(given: Sequence[str]) -> list[Run]:
    """The runs in the order given. Raises UserError for too few or too many, one given twice, or a place without a run."""
    places = [resolved(place, "RUN") for place in given]
    if not 2 <= len(places) <= MOST_RUNS:
        advice = "`python -m pipelines.report RUN` shows one" if len(places) < 2 else "leave some out"
        raise UserError(f"RUN: {len(places)} given; give from 2 to {MOST_RUNS} runs ({advice})")
    if twice := same_run(places):
        raise UserError(f"RUN {twice}: the same run is given twice; give each once")
    names = unique_names([place if "://" in place else os.path.abspath(place) for place in places])
    runs = []
    for number, (place, name) in enumerate(zip(places, names, strict=True)):
        with brought(place, "RUN", lambda file: file in READ or file.startswith("samples/")) as folder:
            runs.append(read_run(folder, place, name, number))
    return runs


def page_place(given: str) -> str:
    """Where the page goes. Raises UserError if it cannot be written there."""
    place = resolved(given, "--out")
    if os.path.isdir(place):
        raise UserError(f"--out {given} is a folder: give a file, such as {given.rstrip('/')}/comparison.html")
    check_writable(os.path.dirname(place) or ".", "--out")
    return place


if __name__ == "__main__":
    sys.exit(main())
