"""Prompt sets in Parquet: the pass at the start, prompts a second, and memory against a table that is read whole.

    python -m bench.prompts [--rows N] [--words N] [--row-group N] [--quick] [--out DIR]

Each way is a process of its own, with its peak of resident memory: a set as the driver opens and walks it, and the same files read
by pyarrow as one table, from which a walk takes rows at random. The walk is of `--steps` steps of 64 prompts, then one late step.
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
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pipelines.data.prompts import PromptOrder, load_prompt_sets
from pipelines.recipe.tables import Data

MB = 2**20
FILES = 8
PER_STEP = 64
LATE_STEP = 10**6
LETTERS = 7  # of a word, with its space
TEXT_ROWS = 2**14


def write_set(folder: Path, rows: int, words: int, row_group: int) -> None:
    """Files of `rows` prompts together, of random captions of `words` words each."""
    rng = np.random.default_rng(0)
    schema = pa.schema({"caption": pa.string(), "id": pa.int64(), "category": pa.string()})
    for number, numbers in enumerate(track(np.array_split(np.arange(rows), FILES), "writing")):
        with pq.ParquetWriter(folder / f"part-{number:03d}.parquet", schema) as writer:
            for start in range(0, len(numbers), row_group):
                ids = pa.array(numbers[start : start + row_group])
                categories = pa.array(np.array(["one", "two", "three"])[np.asarray(ids) % 3])
                captions = pa.chunked_array(list(captions_of(rng, len(ids), words)))
                writer.write_table(pa.table([captions, ids, categories], schema=schema), row_group_size=row_group)


def captions_of(rng: np.random.Generator, rows: int, words: int) -> Iterator[pa.Array]:
    """Random captions, piece by piece."""
    for start in range(0, rows, TEXT_ROWS):
        count = min(TEXT_ROWS, rows - start)
        letters = rng.integers(97, 123, (count, words * LETTERS), np.uint8)
        letters[:, LETTERS - 1 :: LETTERS] = ord(" ")
        offsets = np.arange(count + 1, dtype=np.int32) * (words * LETTERS)
        yield pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters.tobytes()))


def walk_set(folder: Path, steps: int) -> dict[str, float]:
    """Opens the set as a run does, and walks."""
    began = time.perf_counter()
    prompts, _ = load_prompt_sets(Data(train=str(folder)))
    order = PromptOrder(prompts, 0, PER_STEP, {})
    opened = time.perf_counter()
    for step in range(1, steps + 1):
        for group in range(PER_STEP):
            order.prompt(step, group)
    walked = time.perf_counter()
    order.prompt(LATE_STEP, 0)
    late_s = time.perf_counter() - walked
    return {"open_s": opened - began, "walk_s": walked - opened, "late_s": late_s}


def walk_table(folder: Path, steps: int) -> dict[str, float]:
    """Reads all files as one table, shuffles its rows, and walks."""
    began = time.perf_counter()
    table = pq.read_table(folder)
    order = np.random.default_rng(0).permutation(len(table))
    opened = time.perf_counter()
    for row in order[: steps * PER_STEP]:
        {name: table[name][int(row)].as_py() for name in table.column_names}
    return {"open_s": opened - began, "walk_s": time.perf_counter() - opened}


WAYS = {"blocks": walk_set, "whole table": walk_table}


def measure(way: str, folder: Path, steps: int) -> dict[str, float]:
    """The figures of one way, from a process of its own."""
    command = [sys.executable, "-m", "bench.prompts", "--way", way, "--folder", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(done.stdout.splitlines()[-1])


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process. As in bench/hardware.py, which loads torch; a driver does not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def tell(way: str, folder: Path, steps: int) -> None:
    """Prints the figures of one way, of this process."""
    before = resident_bytes("VmRSS")
    found = WAYS[way](folder, steps)
    peak = resident_bytes("VmHWM")
    print(json.dumps({**found, "prompts_per_s": steps * PER_STEP / found["walk_s"], "before": before, "peak": peak}))


def table_of(result: dict[str, Any]) -> Table:
    """What was measured, for people."""
    title = f"{result['rows']:,} prompts of {result['words']} words, {result['bytes_on_disk'] / MB:,.0f} MB on disk"
    table = Table("", *result["ways"], title=title)
    for label, key, scale, digits in (
        ("opened, s", "open_s", 1, 2),
        ("walk, prompts/s", "prompts_per_s", 1, 0),
        (f"then step {LATE_STEP:,}, s", "late_s", 1, 2),
        ("process before, MB", "before", MB, 0),
        ("peak, MB", "peak", MB, 0),
    ):
        values = [found.get(key) for found in result["ways"].values()]
        table.add_row(label, *("" if value is None else f"{value / scale:,.{digits}f}" for value in values))
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.prompts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--words", type=int, default=10, help="of a caption (10); dense ones have 300")
    parser.add_argument("--row-group", type=int, default=100_000, help="rows of a row group (100,000)")
    parser.add_argument("--steps", type=int, default=5000, help="of the walk (5,000)")
    parser.add_argument("--quick", action="store_true", help="20,000 rows and 100 steps")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for prompts.json (runs/bench)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        return tell(options.way, options.folder, options.steps)
    rows, steps = (20_000, 100) if options.quick else (options.rows, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.out) as temporary:
        write_set(Path(temporary), rows, options.words, options.row_group)
        on_disk = sum(os.path.getsize(file) for file in Path(temporary).iterdir())
        ways = {way: measure(way, Path(temporary), steps) for way in WAYS}
    result = {
        "rows": rows,
        "words": options.words,
        "row_group": options.row_group,
        "bytes_on_disk": on_disk,
        "ways": ways,
    }
    console = Console(width=max(100, Console().width))
    console.print(table_of(result))
    path = options.out / "prompts.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
