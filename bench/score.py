"""Images per second of `score` against a plain loop in one process, and the driver's memory as a set grows.

    python -m bench.score [--quick] [--out X.json]

The plain loop is what a short script does: read an image, call the reward, next. Both begin when the reward is loaded and has
scored an image, and end with every score at hand; `score` has written them by then as well. Each way has the same reader, reward
and threads per worker; calls are interleaved, and the best one counts. Memory is the peak of the process that drives, which with
`--executor local` reads and scores as well; the images are then scored by their size as JPEG.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actors.messages import Prompt
from actors.paths import ROOT
from actors.process import Process, prepare
from bench.hardware import machine
from pipelines.data.image_files import read_image
from pipelines.data.images import find_images
from pipelines.recipe.load import load_recipe
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.reward import by_pool

RECIPE = ROOT / "recipes" / "toy_score.toml"
MB = 2**20
SIDE = 64  # pixels of an image whose JPEG is made
ROWS = {False: (1_000, 10_000), True: (200, 400)}  # by --quick: of the sets whose memory is compared
WORKERS = (1, 2)


def plain_loop(images: str) -> float:
    """Images per second of the toy recipe's reward, called in this process."""
    recipe = load_recipe(RECIPE, [f"data.images={images}"], ScoreRecipe)
    [table] = by_pool(recipe.reward).values()
    device = prepare(Process(recipe.run.threads), table.options.where)
    reward, rows = table.options.on(device).load(), find_images(images)
    reward.score(read_image(rows[0])[None], Prompt("0", rows[0].caption))
    start = time.perf_counter()
    for row in rows:
        reward.score(read_image(row)[None], Prompt("0", row.caption))
    return len(rows) / (time.perf_counter() - start)


def score(out: Path, *words: str) -> tuple[dict[str, Any], int]:
    """The summary of a run of the toy recipe, and the peak of its driver's memory in bytes. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "pipelines.score", str(RECIPE), "--out", str(out), *words]
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(Path(log.name).read_text())
    return json.loads((out / "summary.json").read_text()), usage.ru_maxrss * 1024


def write_pictures(path: Path, repeats: int) -> None:
    """The toy recipe's pictures so many times, in a file of Parquet."""
    rows = find_images(str(ROOT / "toy/data/pictures"))
    table = [{"image": Path(row.place).read_bytes(), "caption": row.caption} for row in rows]
    pq.write_table(pa.Table.from_pylist(table * repeats), path, row_group_size=256)


def write_noise(folder: Path, rows: int) -> None:
    """So many images of noise, a file each, and their captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "metadata.jsonl").open("w") as lines:
        for row in range(rows):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{row}.png")
            lines.write(json.dumps({"file_name": f"{row}.png", "caption": f"noise number {row}"}) + "\n")


def measure_speed(folder: Path, repeats: int, turns: int) -> dict[str, Any]:
    """Images per second of each way, the best of some turns."""
    images = folder / "pictures.parquet"
    write_pictures(images, repeats)
    found: dict[str, list[float]] = {}
    for turn in track(range(turns), "speed"):
        plain = subprocess.check_output([sys.executable, "-m", "bench.score", "--plain", str(images)], text=True)
        found.setdefault("plain loop", []).append(float(plain.splitlines()[-1]))
        for size in WORKERS:
            words = set_words(data__images=images, scores__tokens="false", scores__shard_rows=256, reward__size=size)
            summary, _ = score(folder / f"run-{turn}-{size}", *words)
            found.setdefault(f"score, {size} on Ray", []).append(summary["images_per_s"])
    return {way: {"images_per_s": max(speeds), "turns": speeds} for way, speeds in found.items()}


def measure_memory(folder: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """The driver's peak for sets of some sizes."""
    for rows in track(ROWS[quick], "memory"):
        write_noise(folder / str(rows), rows)
        words = set_words(data__images=folder / str(rows), reward='{type = "jpeg_size"}', scores__tokens="false")
        summary, peak = score(folder / f"memory-{rows}", "--executor", "local", *words)
        yield {"rows": rows, "peak_bytes": peak, "images_per_s": summary["images_per_s"]}


def set_words(**values: Any) -> list[str]:
    """Overrides of the command line."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """For people."""
    speed = Table("way", "images per second", "of the plain loop", title="the toy judge")
    plain = results["speed"]["plain loop"]["images_per_s"]
    for way, found in results["speed"].items():
        speed.add_row(way, f"{found['images_per_s']:.1f}", f"{found['images_per_s'] / plain:.2f}")
    yield speed
    memory = Table("images", "peak of the driver, MB", "images per second", title="jpeg_size, all in one process")
    for row in results["memory"]:
        memory.add_row(f"{row['rows']:,}", f"{row['peak_bytes'] / MB:.0f}", f"{row['images_per_s']:.0f}")
    yield memory


def main() -> None:
    """Measures, prints, and writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.score", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sets and one turn, in two minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/score.json"), help="for the JSON")
    parser.add_argument("--plain", metavar="IMAGES", help="the plain loop alone, in this process")
    options = parser.parse_args()
    if options.plain:
        print(plain_loop(options.plain))
        return
    repeats, turns = (4, 1) if options.quick else (60, 3)
    with TemporaryDirectory() as folder:
        speed = measure_speed(Path(folder), repeats, turns)
        memory = list(measure_memory(Path(folder), options.quick))
    results = {"speed": speed, "memory": memory, "machine": machine("cpu")}
    Console().print(*tables(results), results["machine"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
