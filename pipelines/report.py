"""Writes report.html of a run folder: `python -m pipelines.report RUN`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster import speaking
from pipelines.reporting.captions import CAPTIONS, write_captions_report
from pipelines.reporting.models import MODELS, write_models_report
from pipelines.reporting.page import write_report
from pipelines.reporting.scores import write_scores_report
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.report", description="Write report.html of a run folder."
    )
    parser.add_argument("run", metavar="RUN", help="the folder or URL that --out named")
    return parser


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a run folder and print its path; 2 for a user's mistake."""
    with RunLocation(make_parser().parse_args(arguments).run, "RUN") as place:
        place.watch(print)
        print(f"{place.shown}/{writer_of(RunFolder(place.path))(place.path).name}")
    return 0


def writer_of(folder: RunFolder) -> Callable[[Path], Path]:
    """What writes the page, by the program that the run is of."""
    if folder.read_scores():
        return write_scores_report
    summary = folder.read_summary()
    if CAPTIONS in summary:
        return write_captions_report
    return write_models_report if MODELS in summary else write_report


if __name__ == "__main__":
    sys.exit(main())
