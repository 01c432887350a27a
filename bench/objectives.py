"""What the objectives need to learn the miniature world: images and seconds to an accuracy on held-out prompts, by objective and seed.

    python -m bench.objectives [--study objectives|staleness|flow_grpo] [--steps N] [--seeds N] [--accuracy A] [--workers N]
                               [--quick] [--out DIR]

Each run is a whole `python -m pipelines.train` in a process of its own, on one thread, with the in-process executor. A run that is
already whole under --out is not repeated, so a study that broke off goes on. Seconds are the process's CPU seconds: they count
evaluations, and are comparable where other work shares the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figure import standalone
from bench.hardware import machine
from pipelines.reporting.charts import Line, line_chart

RECIPES = {"awm": "recipes/toy.toml", "flow_grpo": "recipes/toy_flow_grpo.toml", "nft": "recipes/toy_nft.toml"}
IMAGES_PER_STEP = 96  # of the miniature world's recipes
WHOLE = (
    "objective.window=7", "objective.timestep_start=0.0", "objective.timestep_fraction=0.99", "policy.learning_rate=1e-3",
)  # fmt: skip
# in all recipes: toy.toml draws in fewer steps, and several groups at once
ALIKE = ("rollout.steps=8", "rollout.groups_per_task=6", "heldout.groups_per_task=6", "policy.final_learning_rate=0.1")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Variant:
    """A recipe with some keys changed, under the name that the table shows."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A held-out evaluation: after so many steps, CPU seconds since the run began, accuracy (macro mean over categories)."""

    step: int
    seconds: float
    accuracy: float


def variants(study: str) -> list[Variant]:
    """What is compared: the three objectives; AWM at several lags, with and without the ratio; or settings of Flow-GRPO beside AWM.

    Of Flow-GRPO: as its recipe has it, with its third and fourth step alone; the whole path; that with even weights and the
    normalised ratio.
    """
    if study == "objectives":
        return [Variant(name, recipe) for name, recipe in RECIPES.items()]
    if study == "flow_grpo":
        return [
            Variant("awm", RECIPES["awm"]),
            Variant("recipe", RECIPES["flow_grpo"]),
            Variant("whole path", RECIPES["flow_grpo"], WHOLE),
            Variant(
                "even", RECIPES["flow_grpo"], (*WHOLE, "objective.ratio=normalised", "objective.step_weights=even")
            ),
        ]
    lags = [Variant(f"S = {lag}", RECIPES["awm"], (f"loop.staleness={lag}",)) for lag in (0, 1, 2, 4)]
    corrected = [
        Variant(f"S = {lag}, corrected", RECIPES["awm"], (f"loop.staleness={lag}", "objective.behaviour=measured"))
        for lag in (1, 2, 4)
    ]
    return lags + corrected


def sizes(steps: int, quick: bool) -> tuple[str, ...]:
    """How long a run is and how it is evaluated."""
    during, end = (1, 1) if quick else (20, 100)
    every = max(1, steps // 8)
    return (
        f"loop.steps={steps}", f"heldout.every={every}", f"heldout.images_per_category_during={during}",
        f"heldout.images_per_category={end}", "heldout.chunk=1" if quick else "heldout.chunk=5", "heldout.base_guidance_scales=[1.0]",
        "heldout.guidance_scales=[1.0]", f"loop.checkpoint_every={steps}", *ALIKE,
    )  # fmt: skip


def learn(variant: Variant, seed: int, settings: Iterable[str], folder: Path) -> list[Point]:
    """Runs it, unless it is whole, and returns its evaluations. Raises RuntimeError with what it printed if it fails."""
    curve = folder / "curve.json"
    if not curve.exists():
        changes = [word for change in (*settings, *variant.changes, f"run.seed={seed}") for word in ("--set", change)]
        command = [sys.executable, "-m", "pipelines.train", variant.recipe, "--executor", "local", "--out", str(folder)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.log").open("w") as log:
            run = subprocess.Popen([*command, *changes], stdout=log, stderr=subprocess.STDOUT)
            points = watch(run, folder / "heldout.jsonl")
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: see {log.name}")
        curve.write_text(json.dumps([vars(point) for point in points]) + "\n")
    return [Point(**point) for point in json.loads(curve.read_text())]


def watch(run: subprocess.Popen, heldout: Path) -> list[Point]:
    """The evaluations that a run writes, each with the CPU seconds that it had taken when the line appeared (within half a second)."""
    points: list[Point] = []
    while True:
        ended, seconds = run.poll() is not None, cpu_seconds(run.pid) or (points[-1].seconds if points else 0.0)
        lines = heldout.read_text().splitlines() if heldout.exists() else []
        points += [Point(line["step"], seconds, line["accuracy"]) for line in map(json.loads, lines[len(points) :])]
        if ended:
            return points
        time.sleep(0.5)


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def reached(points: Sequence[Point], accuracy: float) -> Point | None:
    """Where the line through the evaluations first reaches an accuracy; None where it does not."""
    if points[0].accuracy >= accuracy:
        return points[0]
    for before, after in pairwise(points):
        if after.accuracy >= accuracy:
            share = (accuracy - before.accuracy) / (after.accuracy - before.accuracy)
            step = before.step + share * (after.step - before.step)
            return Point(round(step), before.seconds + share * (after.seconds - before.seconds), accuracy)
    return None


def summarise(curves: dict[str, list[list[Point]]], accuracy: float) -> list[dict[str, Any]]:
    """A row per variant: accuracies at the end, images and seconds to the accuracy, and both against the first variant's."""
    rows = []
    for name, runs in curves.items():
        hits = [hit for hit in (reached(points, accuracy) for points in runs) if hit]
        final = [points[-1].accuracy for points in runs]
        rows.append(
            {
                "name": name,
                "before": statistics.mean(points[0].accuracy for points in runs),
                "final": final,
                "spread": statistics.stdev(final) if len(final) > 1 else 0.0,
                "reached": len(hits),
                "images": statistics.median(hit.step * IMAGES_PER_STEP for hit in hits) if hits else None,
                "seconds": statistics.median(hit.seconds - runs[0][0].seconds for hit in hits) if hits else None,
                "seconds_per_step": statistics.median(
                    (points[-1].seconds - points[0].seconds) / (points[-1].step - points[0].step) for points in runs
                ),
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]], accuracy: float, steps: int) -> Table:
    """A line per variant."""
    columns = ("", "before", f"after {steps} steps\nby seed", "mean ± deviation", f"runs that\nreached {accuracy:.0%}", "images", "CPU s",
               "CPU s\na step", "images of\nthe first's")  # fmt: skip
    table, first = Table(*columns, title="Held-out accuracy"), rows[0]["images"]
    for row in rows:
        mean, known = statistics.mean(row["final"]), row["images"] is not None
        table.add_row(
            row["name"], f"{row['before']:.1%}", " ".join(f"{value:.1%}" for value in row["final"]),
            f"{mean:.1%} ± {row['spread']:.1%}", f"{row['reached']} of {len(row['final'])}",
            f"{row['images']:,.0f}" if known else "-", f"{row['seconds']:.0f}" if known else "-",
            f"{row['seconds_per_step']:.2f}", f"{row['images'] / first:.2f}" if known and first else "-",
        )  # fmt: skip
    return table


def figure(curves: dict[str, list[list[Point]]]) -> str:
    """Accuracy against images and against CPU seconds: the mean of the seeds, and a band from the lowest to the highest."""
    by_images, by_seconds = [], []
    for color, (name, runs) in enumerate(curves.items()):
        columns = list(zip(*runs, strict=True))
        accuracies = [[point.accuracy for point in column] for column in columns]
        ys, low, high = ([f(values) for values in accuracies] for f in (statistics.mean, min, max))
        seconds = [statistics.mean(point.seconds for point in column) for column in columns]
        images = [column[0].step * IMAGES_PER_STEP for column in columns]
        by_images.append(Line(name, images, ys, color, low=low, high=high))
        by_seconds.append(Line(name, [s - seconds[0] for s in seconds], ys, color, low=low, high=high))
    charts = [
        line_chart("Held-out accuracy by images drawn", "", by_images, unit="%"),
        line_chart("Held-out accuracy by CPU seconds", "", by_seconds, unit="%"),
    ]
    return standalone([chart for chart in charts if chart])


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.objectives", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", choices=("objectives", "staleness", "flow_grpo"), default="objectives")
    parser.add_argument("--steps", type=int, help="of each run (200)")
    parser.add_argument("--seeds", type=int, help="runs of each variant (3)")
    parser.add_argument("--accuracy", type=float, default=0.55, help="to be reached (0.55)")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time (1)")
    parser.add_argument("--quick", action="store_true", help="2 steps, 1 seed, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results (runs/bench)")
    options = parser.parse_args(arguments)
    steps, seeds = options.steps or (2 if options.quick else 200), options.seeds or (1 if options.quick else 3)
    settings, compared = sizes(steps, options.quick), variants(options.study)
    folder = options.out / f"{options.study}-{steps}"

    def one(job: tuple[Variant, int]) -> list[Point]:
        variant, seed = job
        name = "".join(letter if letter.isalnum() else "-" for letter in variant.name)
        return learn(variant, seed, settings, folder / f"{name}-{seed}")

    jobs = [(variant, seed) for seed in range(seeds) for variant in compared]
    with ThreadPoolExecutor(options.workers) as pool:
        found = dict(zip(jobs, pool.map(one, jobs), strict=True))
    curves = {variant.name: [found[variant, seed] for seed in range(seeds)] for variant in compared}
    rows = summarise(curves, options.accuracy)
    Console(width=130).print(table_of(rows, options.accuracy, steps))
    results = {"machine": machine("cpu"), "steps": steps, "accuracy": options.accuracy, "rows": rows}
    (options.out / f"{options.study}.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / f"{options.study}.svg").write_text(figure(curves))


if __name__ == "__main__":
    main()
