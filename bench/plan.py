"""What a plan costs, and whether it comes true: simulated clusters of up to 4,096 GPUs, and runs on Ray against their prediction.

    python -m bench.plan [--quick] [--out DIR]

Simulated: the recipe of recipes/sd35m_8gpu.toml, its workers and prompts scaled; the ratio is of the driver's CPU time per group to that
of 64 GPUs. Real: stages that sleep, whose times are told, with workers split in several ways; and the miniature world, whose times are
read from the run's own folder, so that only the loop and the driver are predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.loop import Scenario, measure, pools, recipe_of, resident_mb
from cluster.connect import connect
from pipelines.planning.gpus import gpu_named
from pipelines.planning.measured import Measured, read_run
from pipelines.planning.run import simulate
from pipelines.planning.splits import scaled
from pipelines.planning.times import Duration, Estimated, Times
from pipelines.preflight.memory.models import Models, models_to_estimate
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

RECIPE = Path("recipes/sd35m_8gpu.toml")
TOY = Path("recipes/toy.toml")
PER_NODE = 8
STEADY = {True: 8, False: 26}  # steps of a real run, quick or not
SPLITS = ((2, 6), (3, 5), (4, 4), (5, 3), (6, 2))
SUITED = (5, 3)  # the split for which the sleeping stages are balanced
ALONE = (
    "heldout.every=1000", "heldout.images_per_category=5", "heldout.base_guidance_scales=[1.0]", "heldout.guidance_scales=[1.0]",
    "loop.checkpoint_every=1000", "monitor.tensorboard=false",
)  # fmt: skip
"""Settings of the miniature world that leave nothing but training between the first step and the last."""


def simulated(quick: bool) -> Iterator[dict[str, Any]]:
    """A row per size of the cluster."""
    recipe = load_recipe(RECIPE)
    source = Estimated(models_of(recipe), "h100", gpu_named("h100"), PER_NODE)
    first = None
    for gpus in track((64, 512) if quick else (64, 512, 4096), "simulated"):
        large = scaled(recipe, gpus, source)
        figures = simulate(large, source.times(large), steady=2)
        per_group_ms = 1e3 * figures.cpu_s / (figures.steps * large.rollout.prompts_per_step)
        first = first or per_group_ms
        yield {
            "gpus": gpus,
            "workers": [large.policy.ranks, large.rollout.size, large.rewards["reward"].size],
            "groups_per_step": large.rollout.prompts_per_step,
            "cpu_s_per_step": figures.cpu_s / figures.steps,
            "tasks_per_s": figures.tasks / figures.cpu_s,
            "cpu_ms_per_group": per_group_ms,
            "ratio": per_group_ms / first,
            "driver_busy": figures.busy["driver"],
            "memory_mb": resident_mb(),
        }


def asleep(quick: bool) -> Iterator[dict[str, Any]]:
    """Stages that sleep, on Ray and planned: both get the same times. By staleness, then eight workers in several splits."""
    even = [(staleness, (4, 4), None) for staleness in ((2,) if quick else (0, 1, 2))]
    split = [(1, workers, SUITED) for workers in ([SUITED] if quick else SPLITS)]
    for staleness, (rollouts, rewards), suits in [*even, *split]:
        steps = 2 * (staleness + 2) + STEADY[quick]
        scenario = Scenario(staleness, rollouts=rollouts, rewards=rewards, straggling=0.0, steps=steps, suits=suits)
        stages = "{} + {}".format(*scenario.suited)
        what = f"sleeping for {stages}: {rollouts} + {rewards}, S = {staleness}"
        yield compared(what, *told(scenario), measure(scenario, virtual=False)["images_per_s"])


def told(scenario: Scenario) -> tuple[Recipe, Times]:
    """A scenario of bench.loop as a plan sees it."""
    draw, score, update = (Duration(spec.kwargs["seconds"]) for spec in pools(scenario)[:3])
    return recipe_of(scenario), Times(draw, {"reward": score}, update, scenario.payload_bytes)


def miniature(quick: bool) -> Iterator[dict[str, Any]]:
    """The miniature world on Ray, in a process of its own."""
    for staleness in (1,) if quick else (0, 1, 2):
        with TemporaryDirectory() as temporary:
            out = Path(temporary) / "run"
            settings = [f"loop.staleness={staleness}", f"loop.steps={staleness + 2 + STEADY[quick]}", *ALONE]
            chosen = [part for setting in settings for part in ("--set", setting)]
            command = [sys.executable, "-m", "pipelines.train", str(TOY), "--out", str(out), *chosen]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            run = read_run(str(out))
        times = Measured(run, models_of(run.recipe), PER_NODE).times(run.recipe)
        yield compared(f"miniature world, S = {staleness}", run.recipe, times, run.images_per_s)


def compared(what: str, recipe: Recipe, times: Times, images_per_s: float) -> dict[str, Any]:
    """A row: predicted over measured, and what the driver's time has to do with it."""
    predicted, free = (simulate(recipe, times, steady=100, **driver).images_per_s for driver in ({}, {"driver_s": 0.0}))
    return {
        "what": what,
        "measured": images_per_s,
        "predicted": predicted,
        "ratio": predicted / images_per_s,
        "ratio_without_driver": free / images_per_s,
        "load": os.getloadavg()[0],
    }


def models_of(recipe: Recipe) -> Models:
    """The models of a recipe."""
    return models_to_estimate(recipe.policy, recipe.rewards)


def simulated_table(rows: list[dict[str, Any]]) -> Table:
    """A line per size."""
    table = Table("GPUs", "ranks + rollout + reward", "groups\na step", "driver CPU s\na step", "tasks/s", "ms a group", "ratio",
                  "MB", title="Simulated")  # fmt: skip
    for row in rows:
        table.add_row(
            str(row["gpus"]), " + ".join(map(str, row["workers"])), str(row["groups_per_step"]), f"{row['cpu_s_per_step']:.3f}",
            f"{row['tasks_per_s']:.0f}", f"{row['cpu_ms_per_group']:.2f}", f"[bold]{row['ratio']:.2f}[/]", f"{row['memory_mb']:.0f}",
        )  # fmt: skip
    return table


def compared_table(rows: list[dict[str, Any]]) -> Table:
    """A line per run."""
    table = Table(
        "on Ray",
        "measured\nimages/s",
        "predicted",
        "ratio",
        "ratio, driver\nfor free",
        "load",
        title="Predicted over measured",
    )
    for row in rows:
        figures = (f"{row['measured']:.2f}", f"{row['predicted']:.2f}", f"[bold]{row['ratio']:.3f}[/]")
        table.add_row(row["what"], *figures, f"{row['ratio_without_driver']:.3f}", f"{row['load']:.1f}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for plan.json (runs/bench)")
    options = parser.parse_args(arguments)
    console = Console()
    sizes = list(simulated(options.quick))
    console.print(simulated_table(sizes))
    real = list(track(miniature(options.quick), "the miniature world"))
    console.print(compared_table(real))
    connect(object_store_bytes=500_000_000)  # after the runs that start a Ray of their own
    told_rows = list(track(asleep(options.quick), "stages that sleep"))
    console.print(compared_table(told_rows))
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    results = {"machine": machine, "quick": options.quick, "simulated": sizes, "compared": [*real, *told_rows]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'plan.json'}")


if __name__ == "__main__":
    main()
