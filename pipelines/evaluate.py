"""Evaluates image models on held-out prompts: bases, runs, checkpoints and LoRAs in one table.

    python -m pipelines.evaluate RECIPE [--out DIR] [--set key=value ...] [--executor ray|local] [--resume] [--take-over]

Every model draws the same prompts from the same noise, and rewards and a checker judge: what `train` does on the way, for any
model at any time. judged/*.parquet of the run folder has every image's figures; what is written there is not done again. Exit
codes as `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cluster import speaking
from cluster.tasks import PoolSpec
from pipelines.data.prompts import PromptList
from pipelines.engine.driver import Driver
from pipelines.evaluating.ending import write_summary
from pipelines.evaluating.models import known_models, open_models
from pipelines.evaluating.pools import MakePools, pool_specs
from pipelines.evaluating.sheets import Sheets, prompts_of
from pipelines.evaluating.table import models_tables
from pipelines.evaluating.work import FOLDER, EvaluateWork
from pipelines.recipe.arguments import map_parser, parse_map
from pipelines.recipe.load import load_recipe
from pipelines.recipe.programs.evaluate import EvaluateRecipe
from pipelines.reporting.models import write_models_report
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation
from pipelines.running.job import Start, run_job
from pipelines.running.mapping import MapJob, map_driver
from pipelines.submitting.package import check_out_of_job
from pipelines.training.beginning import sha256_of

ABOUT = "Evaluate image models on held-out prompts: bases, runs, checkpoints and LoRAs in one table."


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    return map_parser("evaluate", ABOUT, "recipes/toy_evaluate.toml", "models.trained=runs/toy")


def program(pools: MakePools) -> Callable[..., int]:
    """The program with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        options = parse_map("evaluate", make_parser(), arguments)
        check_out_of_job(options.out)
        recipe = load_recipe(options.recipe, options.set, EvaluateRecipe)
        return run_job(EvaluateJob(options, recipe, prompts_of(recipe), pools), speaking.console())

    return main


class EvaluateJob(MapJob[EvaluateWork]):
    """One run of `evaluate`."""

    name, units, written = "evaluate", "images", FOLDER
    recipe: EvaluateRecipe
    sheets: Sheets

    def __init__(
        self, options: argparse.Namespace, recipe: EvaluateRecipe, prompts: PromptList, pools: MakePools
    ) -> None:
        inputs = {"data.heldout": f"{len(prompts)} prompts of sha256 {sha256_of(prompts)[:16]}"}
        super().__init__(options, recipe, 0, inputs)
        self.prompts, self.make_pools = prompts, pools

    def look(self, place: RunLocation, root: str, say: Callable[[str], None]) -> None:
        super().look(place, root, say)
        self.run = place.path
        goes_on = RunFolder.holds_run(self.run)
        models = known_models(self.run) if goes_on else open_models(self.recipe, self.run)
        self.sheets = Sheets(self.recipe, models, self.prompts)
        self.count = len(self.sheets.all) * self.sheets.images

    def pools(self) -> list[PoolSpec]:
        return self.make_pools(self.sheets, self.run)

    def driver(self, start: Start) -> Driver[EvaluateWork]:
        return map_driver(EvaluateWork(self.sheets, start.folder, start.executor), self.recipe, start)

    def problem(self, driver: Driver[EvaluateWork]) -> str | None:
        if not driver.work.fruitless:
            return None
        return f"no image could be judged. {FOLDER}/ has each with its reason (the column `reason`)"

    def finish(self, driver: Driver[EvaluateWork], folder: RunFolder, status: str) -> None:
        driver.work.finish()
        write_summary(driver.work, folder, status)

    def figures(self, folder: RunFolder, shown: str) -> list[str]:
        summary = folder.read_summary()
        if summary["written"]:
            speaking.console().print(models_tables(summary))
        failed = f"; {summary['failed']} of them lack a figure" if summary["failed"] else ""
        report = f"report   {shown}/{write_models_report(folder.path).name}"
        return [f"{summary['written']} of {summary['images']} images are judged{failed}", report]


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
