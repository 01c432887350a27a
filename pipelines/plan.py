"""How to split GPUs among the pools of a recipe, before they are rented: the real loop and driver, run in virtual time.

    python -m pipelines.plan RECIPE [--gpus 64] [--gpus-per-node 8] [--gpu h100] [--measured RUNFOLDER] [--set key=value ...]
                             [--steps N] [--scale N] [--json FILE]

Without --gpus the recipe's own sizes are planned. Needs neither a GPU nor Ray nor torch. Exit codes: 0, or 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from cluster import speaking
from pipelines.planning.gpus import DRIVER_S, gpu_named
from pipelines.planning.measured import Measured, read_run
from pipelines.planning.run import STEADY, simulate
from pipelines.planning.splits import (
    Fits,
    Plan,
    best_of,
    candidates,
    check_gpus,
    own_split,
    plans,
    scaled,
    splits,
)
from pipelines.planning.sureness import least_share
from pipelines.planning.table import plans_table
from pipelines.planning.times import Estimated, Source
from pipelines.preflight.memory.cards import GIB, USABLE
from pipelines.preflight.memory.models import models_to_estimate
from pipelines.preflight.verdicts import obstacles
from pipelines.recipe.arguments import count, path_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.location import check_writable

STEADY_AT_SCALE = 2
WIDTH = 140  # of a table: a pipe has no width of its own


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    if options.json:
        if options.json.is_dir():
            raise UserError(f"--json {options.json} is a folder: give a file")
        check_writable(str(options.json.parent), "--json")
    results = plan(options, speaking.console(width=max(WIDTH, speaking.console().width)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.plan", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=path_of, help="a TOML file, such as recipes/sd35m_8gpu.toml")
    parser.add_argument("--gpus", type=count, help="how many there are to split (default: the recipe's own sizes)")
    parser.add_argument("--gpus-per-node", type=count, default=8, metavar="N", help="of the nodes (8)")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="the kind of card, such as h100 or a100 (h100)")
    parser.add_argument(
        "--measured", metavar="RUNFOLDER", help="take the times of tasks from this run; a path or a URL"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    steps = f"to simulate once a plan is steady ({STEADY}; {STEADY_AT_SCALE} with --scale)"
    parser.add_argument("--steps", type=count, help=steps)
    parser.add_argument("--scale", type=count, metavar="N", help="so many workers, and what the driver costs then")
    parser.add_argument("--json", type=path_of, metavar="FILE", help="write all figures here as well")
    return parser


def plan(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Prints what was asked for; returns it as plain figures. Raises UserError or Mistake."""
    recipe = load_recipe(options.recipe, options.set)
    card = gpu_named(options.gpu)
    models = models_to_estimate(recipe.policy, recipe.rewards)
    if found := obstacles(recipe.policy, recipe.rollout, recipe.rewards, models):
        raise UserError("\n".join(found))
    if options.gpus:
        check_gpus(recipe, options.gpus, options.gpus_per_node)
    measured = None if options.measured is None else read_run(options.measured)
    estimated = Estimated(models, options.gpu, card, options.gpus_per_node)
    source: Source = Measured(measured, models, options.gpus_per_node) if measured else estimated
    speaking.say(console, "", source.note, "dim")
    if options.scale:
        return report_scale(recipe, options.scale, source, options.steps or STEADY_AT_SCALE, console)
    fits = Fits(models, options.gpus or 0, options.gpus_per_node, round(card.memory * GIB * USABLE))
    found_plans, best = report_plans(recipe, options, source, fits, console)
    results = {"plans": [_plain(each, recipe) for each in found_plans], "best": _plain(best, recipe)}
    if measured:
        predicted = simulate(measured.recipe, source.times(measured.recipe), steady=max(measured.steps, STEADY))
        ratio = predicted.images_per_s / measured.images_per_s
        speaking.say(
            console,
            f"The run itself: {predicted.images_per_s:.4g} images/s predicted, {measured.images_per_s:.4g} measured, ratio {ratio:.3f}.",
        )
        results["measured"] = {"predicted": asdict(predicted), "images_per_s": measured.images_per_s, "ratio": ratio}
    return results


def report_plans(
    recipe: Recipe, options: argparse.Namespace, source: Source, fits: Fits, console: Console
) -> tuple[list[Plan], Plan]:
    """Simulates the splits that are worth it, prints them, and the best as options to paste. Raises UserError if none fits."""
    chosen = [own_split(recipe)]
    if options.gpus:
        own = chosen[0] if fits(recipe) else None
        found_splits = splits(recipe, options.gpus, options.gpus_per_node, source.times(recipe))
        chosen = candidates(recipe, found_splits, source, fits)
        if own and own not in chosen:
            chosen.append(own)
        if not chosen:
            raise UserError(
                f"--gpus {options.gpus}: no split fits cards of kind {options.gpu} ({fits.card / GIB:.0f} GiB); "
                "`python -m pipelines.doctor` says what each worker needs, and what to change"
            )
    with console.status("simulating"):
        found = list(plans(recipe, chosen, source, options.steps or STEADY))
    best = best_of(found)
    by_split = [best_of([each for each in found if own_split(each.recipe) == split]) for split in chosen]
    of_best = [each for each in found if own_split(each.recipe) == own_split(best.recipe)]
    if len(chosen) > 1:
        shares = {split: least_share(recipe, split, chosen, source) for split in chosen}
        console.print(plans_table("Splits", by_split, best, own_split(recipe), shares))
    console.print(plans_table("Staleness" if len(chosen) == 1 else "Staleness, for the best split", of_best, best))
    pasted = " ".join(f"--set {shlex.quote(text)}" for text in best.overrides(recipe))
    speaking.say(console, f" {pasted}", "best", "bold")
    return found, best


def report_scale(recipe: Recipe, workers: int, source: Source, steady: int, console: Console) -> dict[str, Any]:
    """Simulates so many workers and prints what the driver costs."""
    pools = 2 + len(recipe.rewards)
    if workers < pools:
        raise UserError(f"--scale {workers}: give at least {pools}, a worker for each pool")
    large = scaled(recipe, workers, source)
    figures = simulate(large, source.times(large), steady=steady)
    console.print(plans_table(f"{workers} workers", [Plan(large, figures)], None))
    speaking.say(
        console,
        f"The driver on this machine: {figures.cpu_s / figures.steps:.2f} CPU seconds a step, {figures.tasks / figures.cpu_s:.0f} tasks a "
        f"second, without Ray. The simulation gives it {1e3 * DRIVER_S:g} ms a task, as measured with Ray.",
    )
    return {"scale": _plain(Plan(large, figures), recipe)}


def _plain(each: Plan, given: Recipe) -> dict[str, Any]:
    return {
        "set": each.overrides(given),
        "gpus": each.gpus,
        "gpu_hours": each.gpu_hours,
        "bottleneck": each.figures.bottleneck,
        **asdict(each.figures),
    }


if __name__ == "__main__":
    sys.exit(main())
