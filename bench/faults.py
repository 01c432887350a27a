"""What faults cost: runs of the miniature world in which something dies or hangs, against a run in which nothing does.

    python -m bench.faults [--quick] [--out DIR] [--steps N] [--only WORDS]

"seconds": from the start of the first step to the end of the run; ratios are to the mean of the runs without a fault, of
which one is the first and one the last, so that their difference shows how quiet the machine was. "recovered": from the
fault to the end of the step that it hit, so it holds what the step would have taken anyway. All runs must end with the
same digest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.faults_world import Run, overrides
from cluster.connect import connect

RECIPE = Path("recipes/toy.toml")
SETTINGS: dict[str, object] = {
    "rollout__size": 2,
    "reward__size": 2,
    "heldout__every": 1000,
    "heldout__images_per_category": 5,
    "heldout__base_guidance_scales": "[1.0]",
    "heldout__guidance_scales": "[1.0]",
    "cluster__deadline_floor_s": 10.0,
}


def kill_driver(run: Run) -> Run:
    """The driver dies and is started again at once."""
    run.kill()
    return run.resume()


def _killed(method: str) -> Callable[[Run], Run]:
    def hurt(run: Run) -> Run:
        run.kill_in(method)
        return run

    return hurt


def _hangs(method: str) -> Callable[[Run], Run]:
    def hurt(run: Run) -> Run:
        run.catch(method)
        return run

    return hurt


FAULTS: dict[str, Callable[[Run], Run]] = {
    "none": lambda run: run,
    "a reward worker is killed": _killed("RewardActor.score"),
    "a rollout worker is killed": _killed("RolloutActor.draw"),
    "a reward worker hangs": _hangs("RewardActor.score"),
    "the policy's rank is killed": _killed("PolicyActor.update"),
    "the driver is killed and resumed": kill_driver,
    "none, once more": lambda run: run,
}


def measure(fault: str, steps: int, out: Path, address: str) -> dict[str, Any]:
    """One run, in which the fault happens after half of the steps and between two checkpoints."""
    length = {"loop__steps": steps, "loop__checkpoint_every": max(1, steps // 5)}
    run = Run(RECIPE, out, *overrides(**SETTINGS, **length), address=address)
    run.reach(steps // 2)
    run = FAULTS[fault](run)
    hurt_at, step = time.monotonic(), run.steps()
    hit = step + 1
    if fault.endswith(("worker is killed", "worker hangs")):
        hit = run.until(lambda: run.events("failure"), "the failure of a task")[0]["step"]
    run.until(lambda: run.steps() >= hit, f"the end of step {hit}")
    recovered_s = time.monotonic() - hurt_at
    if code := run.end(seconds=3600):
        raise RuntimeError(f"the run in which {fault} ended with {code}:\n{run.output()[-4000:]}")
    state = run.folder.read_state()
    went_back_to = [event["step"] for kind in ("policy_restarted", "resumed") for event in run.events(kind)]
    return {
        "fault": fault,
        "seconds": state["changed"] - state["started"],
        "recovered_s": recovered_s,
        "steps_again": step - went_back_to[0] if went_back_to else 0,
        "failures": [event["cause"] for kind in ("failure", "policy_lost") for event in run.events(kind)],
        "digest": run.folder.read_summary()["digest"],
    }


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their ratio to the runs in which nothing failed. Raises RuntimeError if a digest is another one."""
    for row in rows:
        if row["digest"] != rows[0]["digest"]:
            raise RuntimeError(f"{row['fault']}: the digest is not that of the run without faults")
    seconds = statistics.mean(row["seconds"] for row in rows if row["fault"].startswith("none"))
    return [{**row, "ratio": row["seconds"] / seconds, "lost_s": row["seconds"] - seconds} for row in rows]


def table(rows: list[dict[str, Any]]) -> Table:
    """A line per fault."""
    columns = ("fault", "seconds", "ratio", "seconds\nlost", "recovered\nafter s", "steps done\nagain")
    shown = Table(*columns, title="One fault in a run")
    for row in rows:
        figures = (f"{row[key]:.1f}" for key in ("lost_s", "recovered_s"))
        shown.add_row(
            row["fault"], f"{row['seconds']:.1f}", f"[bold]{row['ratio']:.2f}[/]", *figures, str(row["steps_again"])
        )
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for faults.json (runs/bench)")
    parser.add_argument("--steps", type=int, help="of each run (12 with --quick, else 50)")
    parser.add_argument("--only", default="", help="only faults with these words in their name, and the runs without")
    options = parser.parse_args(arguments)
    steps = options.steps or (12 if options.quick else 50)
    connect(num_cpus=8, object_store_bytes=500_000_000)
    address = ray.get_runtime_context().gcs_address
    chosen = [fault for fault in FAULTS if fault.startswith("none") or options.only in fault]
    with TemporaryDirectory() as temporary:
        runs = [
            measure(fault, steps, Path(temporary) / str(i), address) for i, fault in enumerate(track(chosen, "runs"))
        ]
    rows = compare(runs)
    console = Console()
    console.print(table(rows))
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    options.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine, "quick": options.quick, "steps": steps, "settings": SETTINGS, "faults": rows}
    (options.out / "faults.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'faults.json'}")


if __name__ == "__main__":
    main()
