"""Scores images by the captions that they come with: every reward of the recipe, per image and, on request, per token.

    python -m pipelines.score RECIPE [--out DIR] [--set key=value ...] [--executor ray|local] [--resume] [--take-over]

The scores are scores/*.parquet of the run folder. What is written there is not done again: --resume goes on after a stop or a
kill. A row that cannot be scored is listed with its reason, and has no score. Exit codes as `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cluster import speaking
from cluster.tasks import PoolSpec
from pipelines.data.images import ImageRow, sha256_of
from pipelines.engine.driver import Driver
from pipelines.recipe.arguments import map_parser, parse_map
from pipelines.recipe.load import load_recipe
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.reporting.scores import write_scores_report
from pipelines.run_folder.folder import RunFolder
from pipelines.running.job import Start, run_job
from pipelines.running.mapping import MapJob, map_driver
from pipelines.scoring.columns import FOLDER
from pipelines.scoring.ending import write_summary
from pipelines.scoring.pools import MakePools, pool_specs
from pipelines.scoring.rows import rows_of
from pipelines.scoring.work import ScoreWork
from pipelines.submitting.package import check_out_of_job

ABOUT = "Score images by the captions that they come with: every reward of the recipe, per image and per token."


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    return map_parser("score", ABOUT, "recipes/toy_score.toml", "data.images=pictures")


def program(pools: MakePools) -> Callable[..., int]:
    """The program with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        options = parse_map("score", make_parser(), arguments)
        check_out_of_job(options.out)
        recipe = load_recipe(options.recipe, options.set, ScoreRecipe)
        return run_job(ScoreJob(options, recipe, rows_of(recipe), pools), speaking.console())

    return main


class ScoreJob(MapJob[ScoreWork]):
    """One run of `score`."""

    name, units, written = "score", "rows", FOLDER
    recipe: ScoreRecipe

    def __init__(
        self, options: argparse.Namespace, recipe: ScoreRecipe, rows: Sequence[ImageRow], pools: MakePools
    ) -> None:
        said = f"{len(rows)} rows with names and captions of sha256 {sha256_of(rows)[:16]}"
        super().__init__(options, recipe, len(rows), {"data.images": said})
        self.rows, self.make_pools = rows, pools

    def pools(self) -> list[PoolSpec]:
        return self.make_pools(self.recipe, self.rows)

    def driver(self, start: Start) -> Driver[ScoreWork]:
        return map_driver(ScoreWork(self.recipe, self.rows, start.folder), self.recipe, start)

    def problem(self, driver: Driver[ScoreWork]) -> str | None:
        if not driver.work.fruitless:
            return None
        return "no row could be scored. scores/ has each with its reason (the column `reason`)"

    def finish(self, driver: Driver[ScoreWork], folder: RunFolder, status: str) -> None:
        driver.work.finish()
        write_summary(driver.work, folder, status)

    def figures(self, folder: RunFolder, shown: str) -> list[str]:
        summary = folder.read_summary() or {}
        failed = f"; {summary['failed']} of them lack a score" if summary["failed"] else ""
        rewards = [
            f"{name}  mean {figures['mean']:.4f}  std {figures['std']:.4f}"
            for name, figures in summary["rewards"].items()
            if figures["count"]
        ]
        report = f"report   {shown}/{write_scores_report(folder.path).name}"
        return [f"{summary['written']} of {summary['rows']} rows are written{failed}", *rewards, report]


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
