"""The first ten minutes on a GPU: does everything run there, to the same bits twice, how fast, and in how much memory.

    python -m bench.gpu [--family F] [--judge J] [--minutes 10] [--parts P ...] [--tiny] [--device cuda] [--out DIR]

Each part runs in a process of its own within a share of the time, and what it has found is written after each measurement: a run that
is cut short, or a part that breaks, still tells the rest. It stands beside what doctor and plan expect. Needs torch, transformers,
diffusers, peft and pydantic, no Ray and no DeepSpeed; the judge's part no diffusers. How to read it: docs/gpu.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_case import FAMILIES, JUDGES, Case

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """A part by the function "module:function" that measures it, which gives (name, figures) one after another.

    `share`: of the time; `tiny`: it is tried at its smallest first.
    """

    function: str
    share: float
    tiny: bool = True


PARTS = {
    "environment": Part("bench.gpu_environment:measure", 0.08, tiny=False),
    "score": Part("bench.gpu_score:measure", 0.22),
    "draw": Part("bench.gpu_draw:measure", 0.27),
    "update": Part("bench.gpu_update:measure", 0.27),
    "encode": Part("bench.gpu_encode:measure", 0.10),
    "ranks": Part("bench.gpu_ranks:measure", 0.06, tiny=False),
}
TINY_SHARE = 0.25  # of a part's own time, for its smallest form


def run_part(name: str, case: Case, file: Path) -> None:
    """In the part's own process: measures, and rewrites the file after each measurement. An error ends the part, and is reported."""
    from actors.process import Process, prepare

    prepare(Process())
    module, _, function = PARTS[name].function.partition(":")
    found: dict[str, Any] = {}
    try:
        for what, figures in getattr(importlib.import_module(module), function)(case):
            found[what] = figures
            _write(file, found)
            print(f"  {what}: {json.dumps(figures)}", flush=True)
    except Exception as error:
        _write(file, {**found, "error": f"{type(error).__name__}: {error}"})
        raise


def start_part(name: str, case: Case, seconds: float, folder: Path) -> dict[str, Any]:
    """What a part found, within these seconds, in a process of its own; `ended` says how it went."""
    file = folder / f"{name}{'_tiny' if case.tiny else ''}.json"
    file.unlink(missing_ok=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.gpu", "--part", name, "--out", str(file), *case.arguments()]
    environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", **os.environ}
    try:
        code = subprocess.run(command, cwd=ROOT, env=environment, timeout=max(1.0, seconds)).returncode
        ended = "whole" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"cut short after {seconds:.0f} s"
    found = json.loads(file.read_text()) if file.exists() else {}
    return {**found, "ended": ended, "seconds": time.perf_counter() - start}


def run(case: Case, names: list[str], minutes: float, out: Path) -> dict[str, Any]:
    """All parts in their order; what is found so far is in `out` after each. Without a usable GPU nothing follows the first."""
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"case": vars(case), "minutes": minutes}
    whole = sum(PARTS[name].share for name in names)
    for name in names:
        part = PARTS[name]
        seconds = 60 * minutes * part.share / whole
        if part.tiny and not case.tiny:
            results[f"{name} tiny"] = _tell(name, case.smallest(), TINY_SHARE * seconds, out)
            _write(out / "gpu.json", results)
            seconds *= 1 - TINY_SHARE
        results[name] = _tell(name, case, seconds, out)
        _write(out / "gpu.json", results)
        if name == "environment" and "error" in results[name]:
            break
    return results


def _tell(name: str, case: Case, seconds: float, out: Path) -> dict[str, Any]:
    print(f"{name}{' at its smallest' if case.tiny else ''}, at most {seconds:.0f} s", flush=True)
    found = start_part(name, case, seconds, out)
    print(f"  {found['ended']} in {found['seconds']:.0f} s", flush=True)
    return found


def _write(file: Path, found: dict[str, Any]) -> None:
    """Whole or not at all: the process may be ended at any time."""
    made = file.with_suffix(".part")
    made.write_text(json.dumps(found, indent=2) + "\n")
    made.replace(file)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a part broke or was cut short."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="sd3.5-medium")
    parser.add_argument("--judge", choices=JUDGES, default="qwen3-vl-8b")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together (10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument(
        "--tiny", action="store_true", help="narrow models of the same make and nothing else, in seconds"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu"), help="folder for the JSON (runs/bench/gpu)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    case = Case(options.family, options.judge, options.device, options.tiny)
    if options.part:
        run_part(options.part, case, options.out)
        return 0
    results = run(case, options.parts, options.minutes, options.out.resolve())
    print(f"written to {options.out / 'gpu.json'}")
    return int(
        any(found["ended"] != "whole" for found in results.values() if isinstance(found, dict) and "ended" in found)
    )


if __name__ == "__main__":
    raise SystemExit(main())
