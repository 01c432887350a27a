"""Describes images by a vision-language model: from pictures to a prompt set to train on, and one that is held out.

    python -m pipelines.caption RECIPE [--out DIR] [--set key=value ...] [--executor ray|local] [--resume] [--take-over]

prompts/train.parquet and prompts/heldout.parquet of the run folder are the prompts, captions/*.parquet what was written of every
image. What is written there is not done again: --resume goes on after a stop or a kill. An image without a caption is listed with
its reason. Exit codes as `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cluster import speaking
from cluster.tasks import PoolSpec
from pipelines.captioning.ending import write_prompts
from pipelines.captioning.pools import MakePools, pool_specs
from pipelines.captioning.work import FOLDER, CaptionWork
from pipelines.data.images import ImageRow, find_images, sha256_of
from pipelines.data.prompts import load_prompts
from pipelines.engine.driver import Driver
from pipelines.preflight.checks import check_named
from pipelines.recipe.arguments import map_parser, parse_map
from pipelines.recipe.load import load_recipe
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.writer import WRITER
from pipelines.reporting.captions import write_captions_report
from pipelines.run_folder.folder import RunFolder
from pipelines.running.job import Start, run_job
from pipelines.running.mapping import MapJob, map_driver
from pipelines.submitting.package import check_out_of_job

ABOUT = "Describe images by a vision-language model: a prompt set to train on, and one that is held out."


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    return map_parser("caption", ABOUT, "recipes/toy_caption.toml", "data.images=pictures")


def program(pools: MakePools) -> Callable[..., int]:
    """The program with workers of these pools: a function of the words of the command line that returns the exit code."""

    @speaking.program
    def main(arguments: Sequence[str] | None = None) -> int:
        options = parse_map("caption", make_parser(), arguments)
        check_out_of_job(options.out)
        recipe = load_recipe(options.recipe, options.set, CaptionRecipe)
        check_named({f"{WRITER}.{key}": named for key, named in recipe.writer.options.named_models().items()})
        rows = find_images(recipe.data.images, caption=None)
        return run_job(CaptionJob(options, recipe, rows, known_captions(recipe), pools), speaking.console())

    return main


def known_captions(recipe: CaptionRecipe) -> frozenset[str]:
    """Those that are to stay out of the prompt set. Raises UserError for a file that cannot be read."""
    place = recipe.captions.apart_from
    return frozenset(prompt.caption for prompt in load_prompts(place, "captions.apart_from")) if place else frozenset()


class CaptionJob(MapJob[CaptionWork]):
    """One run of `caption`."""

    name, units, written = "caption", "images", FOLDER
    recipe: CaptionRecipe

    def __init__(
        self,
        options: argparse.Namespace,
        recipe: CaptionRecipe,
        rows: Sequence[ImageRow],
        apart_from: frozenset[str],
        pools: MakePools,
    ) -> None:
        said = f"{len(rows)} images with names of sha256 {sha256_of(rows)[:16]}"
        super().__init__(options, recipe, len(rows), {"data.images": said})
        self.rows, self.apart_from, self.make_pools = rows, apart_from, pools

    def pools(self) -> list[PoolSpec]:
        return self.make_pools(self.recipe, self.rows)

    def driver(self, start: Start) -> Driver[CaptionWork]:
        return map_driver(CaptionWork(self.recipe, self.rows, start.folder), self.recipe, start)

    def problem(self, driver: Driver[CaptionWork]) -> str | None:
        if not driver.work.fruitless:
            return None
        return f"no image has a caption. {FOLDER}/ has each with its reason (the column `reason`)"

    def finish(self, driver: Driver[CaptionWork], folder: RunFolder, status: str) -> None:
        driver.work.finish()
        write_prompts(driver.work, self.apart_from, folder, status)

    def figures(self, folder: RunFolder, shown: str) -> list[str]:
        summary = folder.read_summary()
        words = summary["words"]
        failed = f", {summary['failed']} without one" if summary["failed"] else ""
        lengths = (
            f"words    mean {words['mean']:.0f}, {words['min']:.0f} to {words['max']:.0f}" if words["counts"] else ""
        )
        return [
            f"{summary['captions']} of {summary['rows']} images have a caption{failed}",
            *filter(None, [lengths]),
            f"prompts  {shown}/prompts: {summary['train']} to train on, {summary['heldout']} held out",
            f"report   {shown}/{write_captions_report(folder.path).name}",
        ]


main = program(pool_specs)

if __name__ == "__main__":
    sys.exit(main())
