"""What the commands of the full-size benchmarks share: options, device, and the way of results to the screen and into a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actors.device import pick_device, pick_dtype
from actors.process import Process, prepare
from bench.hardware import machine, matrix_peak


def command_line(program: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every one of them has."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=(description or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a narrow model of the same make, in seconds on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (1)")
    parser.add_argument("--repeats", type=int, help="turns (2 with --tiny, else 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the JSON (runs/bench)")
    return parser


def start(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """The device and the type in which models compute there; fills in the options that were left out."""
    prepare(Process(options.threads))
    options.repeats = options.repeats or (2 if options.tiny else 5)
    device = pick_device(options.device)
    return device, pick_dtype("auto", device)


def fill_in(options: argparse.Namespace, usual: Mapping[str, Any]) -> None:
    """Gives options that were left out their usual values."""
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def surroundings(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The machine, and its measured peak in this type, of which shares are given."""
    peak = matrix_peak(device.type, dtype)
    return {"machine": machine(device.type), "dtype": str(dtype).removeprefix("torch."), "peak_flop_per_s": peak}


def finish(results: dict[str, Any], tables: list[Table], file: Path) -> None:
    """Prints the tables and writes the results."""
    console = Console(width=max(100, Console().width))
    peak = f"{results['peak_flop_per_s'] / 1e12:.3g} TFLOP/s in {results['dtype']}, the fastest matrix product here"
    console.print(*tables, f"peak: {peak}", results["machine"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {file}")
