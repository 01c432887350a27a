"""Checkpoints: seconds and bytes per save and per resume, and how much of a save is hidden behind the training.

    python -m bench.checkpoint [--recipe recipes/toy.toml] [--steps N] [--set key=value ...] [--out DIR]

The same run twice, interleaved: with a checkpoint after every step, and with one at its end. What a save costs is what it
adds to a step; what it hides is what the storage worker wrote meanwhile. Then the storage alone, against writing one file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.storage.documents import Storage, check, read_manifest

MB = 2**20
QUIET = ("heldout.images_per_category=1", "heldout.images_per_category_during=1", "heldout.every=100000")


def train(recipe: Path, out: Path, *options: str) -> float:
    """One run in a process of its own; its wall seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.train", str(recipe), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def step_seconds(run: Path) -> float:
    """The median step of a run, without the first two, which warm up."""
    return statistics.median(record["seconds"]["step"] for record in lines_of(run / "metrics.jsonl")[2:])


def measure_runs(recipe: Path, steps: int, overrides: list[str], repeats: int) -> dict[str, Any]:
    """Steps with and without a save, the saves' own figures, and a resume from the last checkpoint but one."""
    given = [word for override in (*QUIET, *overrides, f"loop.steps={steps}") for word in ("--set", override)]
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    saves: list[dict[str, Any]] = []
    restores: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        for number in track(range(repeats), "runs"):
            for name, every in (("with", 1), ("without", steps)):
                run = Path(temporary) / f"{name}-{number}"
                train(recipe, run, *given, "--set", f"loop.checkpoint_every={every}")
                seconds[name].append(step_seconds(run))
                if name == "with":
                    saves += [event for event in lines_of(run / "events.jsonl") if event["kind"] == "checkpoint"]
            run = Path(temporary) / f"with-{number}"
            checkpoint = run / "checkpoints" / f"step-{steps - 1:06d}"
            train(recipe, run, *given, "--resume", str(checkpoint))
            restores += [event for event in lines_of(run / "events.jsonl") if event["kind"] == "restored"]
    with_save, without = statistics.median(seconds["with"]), statistics.median(seconds["without"])
    snapshot_s = statistics.median(save["snapshot_s"] for save in saves)
    write_s = statistics.median(save["write_s"] for save in saves)
    return {
        "recipe": str(recipe),
        "overrides": overrides,
        "step_s_without": without,
        "step_s_with": with_save,
        "step_ratio": with_save / without,
        "bytes": statistics.median(save["bytes"] for save in saves),
        "snapshot_s": snapshot_s,
        "write_s": write_s,
        "hidden": max(0.0, 1 - max(0.0, with_save - without) / (snapshot_s + write_s)),
        "restore_s": statistics.median(restore["seconds"] for restore in restores),
    }


def measure_storage(megabytes: int, repeats: int) -> dict[str, Any]:
    """Writing and reading a document, as ratios to one file written, synced and read by nothing but the system."""
    content = np.random.default_rng(0).integers(0, 256, megabytes * MB, dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in ("plain write", "write", "plain read", "read", "check")}
    storage = Storage()
    with TemporaryDirectory() as temporary:
        place, plain = f"{temporary}/step-000001", Path(temporary) / "plain"
        for _ in track(range(repeats), "storage"):
            clock = time.perf_counter()
            with plain.open("wb") as file:
                file.write(content.data)
                os.fsync(file.fileno())
            times["plain write"].append(time.perf_counter() - clock)
            times["write"].append(storage.write(place, {}, {}, {"policy.bin": content})["seconds"])
            clock = time.perf_counter()
            plain.read_bytes()
            times["plain read"].append(time.perf_counter() - clock)
            times["read"].append(storage.read(place, ["policy.bin"])[0]["seconds"])
            clock = time.perf_counter()
            check(place, read_manifest(place))
            times["check"].append(time.perf_counter() - clock)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "megabytes": megabytes,
        **{f"{name.replace(' ', '_')}_mb_per_s": megabytes / seconds for name, seconds in medians.items()},
        "write_ratio": medians["write"] / medians["plain write"],
        "read_ratio": medians["read"] / medians["plain read"],
    }


def tables(runs: dict[str, Any], storage: dict[str, Any]) -> tuple[Table, Table]:
    """What was measured, for people."""
    saves = Table(title=f"A checkpoint after every step of {runs['recipe']}", show_header=False)
    saves.add_row("bytes", f"{runs['bytes'] / MB:.2f} MB")
    saves.add_row("snapshot (the ranks wait)", f"{1e3 * runs['snapshot_s']:.1f} ms")
    saves.add_row("write (they do not)", f"{1e3 * runs['write_s']:.1f} ms")
    saves.add_row("step without, with", f"{runs['step_s_without']:.3f} s, {runs['step_s_with']:.3f} s")
    saves.add_row("ratio of steps", f"{runs['step_ratio']:.3f}")
    saves.add_row("hidden share of a save", f"{runs['hidden']:.0%}")
    saves.add_row("restore on --resume", f"{runs['restore_s']:.2f} s")
    alone = Table(title=f"The storage worker alone, {storage['megabytes']} MB", show_header=False)
    alone.add_row("write, hash and sync", f"{storage['write_mb_per_s']:.0f} MB/s")
    alone.add_row("against one plain file", f"{storage['write_ratio']:.2f} of its time")
    alone.add_row("read and hash", f"{storage['read_mb_per_s']:.0f} MB/s ({storage['read_ratio']:.2f} of plain)")
    alone.add_row("check (before a resume)", f"{storage['check_mb_per_s']:.0f} MB/s")
    return saves, alone


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/toy.toml"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=256, help="of the document for the storage alone")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for checkpoint.json (runs/bench)")
    options = parser.parse_args(arguments)
    storage = measure_storage(options.megabytes, 3)
    runs = measure_runs(options.recipe, options.steps, options.set, options.repeats)
    console = Console(width=max(100, Console().width))
    console.print(*tables(runs, storage))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "checkpoint.json"
    path.write_text(json.dumps({"runs": runs, "storage": storage}, indent=2) + "\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
