"""What faults cost: runs of the miniature world in which something dies or hangs, against a run in which nothing does.

    python -m bench.faults [--quick] [--out DIR] [--steps N] [--only WORDS ...]

"seconds": from the start of the first step to the end of the run; ratios are to the mean of the runs without a fault in
the same world, of which the plain one has two, one first and one last, so that their difference shows how quiet the
machine was. "recovered": from the fault to the end of the step that it hit, so it holds what the step would have taken
anyway. All runs of a world must end with the same digest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.connect import connect
from tests.support.faults_nodes import PLACES, add_easel, cluster_without_easels, kill_node_of
from tests.support.faults_world import Run, overrides

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


WORLDS: dict[str, dict[str, object]] = {
    "plain": {},
    "two ranks": {"policy__ranks": 2, "policy__zero_stage": 2},
    "nodes": PLACES,  # two with a rollout worker each, and a spare one
}


@dataclass(frozen=True)
class Fault:
    """A run in which something happens. of_a_task: a draw or a score fails by it, and it hits the step of that."""

    name: str
    hurt: Callable[[Run], Run] | None = None
    of_a_task: bool = False
    world: str = "plain"


def kill_driver(run: Run) -> Run:
    """The driver dies and is started again at once."""
    run.kill()
    return run.resume()


def lose_node(run: Run) -> Run:
    """A node dies with a rollout worker at work on it."""
    kill_node_of(run.catch("RolloutActor.draw"))
    return run


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


FAULTS = [
    Fault("none"),
    Fault("a reward worker is killed", _killed("RewardActor.score"), of_a_task=True),
    Fault("a rollout worker is killed", _killed("RolloutActor.draw"), of_a_task=True),
    Fault("a reward worker hangs", _hangs("RewardActor.score"), of_a_task=True),
    Fault("the policy's rank is killed", _killed("PolicyActor.update")),
    Fault("the policy's rank hangs", _hangs("PolicyActor.update")),
    Fault("the driver is killed and resumed", kill_driver),
    Fault("none, once more"),
    Fault("none, two ranks", world="two ranks"),
    Fault("one of two ranks is killed", _killed("PolicyActor.update"), world="two ranks"),
    Fault("none, three nodes", world="nodes"),
    Fault("a node is lost", lose_node, of_a_task=True, world="nodes"),
]


def measure(fault: Fault, steps: int, out: Path, address: str) -> dict[str, Any]:
    """One run, in which the fault happens after half of the steps and between two checkpoints."""
    length = {"loop__steps": steps, "loop__checkpoint_every": max(1, steps // 5)}
    run = Run(RECIPE, out, *overrides(**{**SETTINGS, **WORLDS[fault.world], **length}), address=address)
    run.reach(steps // 2)
    if fault.hurt:
        run = fault.hurt(run)
    hurt_at, step = time.monotonic(), run.steps()
    hit = step + 1
    if fault.of_a_task:
        hit = run.until(lambda: run.events("failure"), "the failure of a task")[0]["step"]
    run.until(lambda: run.steps() >= hit, f"the end of step {hit}")
    recovered_s = time.monotonic() - hurt_at
    if code := run.end(seconds=3600):
        raise RuntimeError(f"the run in which {fault.name} ended with {code}:\n{run.output()[-4000:]}")
    state = run.folder.read_state()
    went_back_to = [event["step"] for kind in ("policy_restarted", "resumed") for event in run.events(kind)]
    return {
        "fault": fault.name,
        "unhurt": fault.hurt is None,
        "world": fault.world,
        "seconds": state["changed"] - state["started"],
        "recovered_s": recovered_s,
        "steps_again": step - went_back_to[0] if went_back_to else 0,
        "failures": [event["cause"] for kind in ("failure", "policy_lost") for event in run.events(kind)],
        "digest": run.folder.read_summary()["digest"],
        "load": os.getloadavg()[0],
    }


@contextmanager
def cluster_of(world: str) -> Iterator[str]:
    """The address of a cluster for the runs of a world."""
    if world == "nodes":
        with cluster_without_easels() as cluster:
            for _ in range(3):
                add_easel(cluster)
            yield cluster.address
    else:
        connect(num_cpus=8, object_store_bytes=500_000_000)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a world, with their ratio to its runs in which nothing failed. Raises RuntimeError if a digest is another one."""
    for row in rows:
        if row["digest"] != rows[0]["digest"]:
            raise RuntimeError(f"{row['fault']}: the digest is not that of the run without faults")
    seconds = statistics.mean(row["seconds"] for row in rows if row["unhurt"])
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


def chosen(world: str, words: list[str]) -> list[Fault]:
    """The faults of a world whose name holds any of these words, and before them a run without, if there are any."""
    of_world = [fault for fault in FAULTS if fault.world == world]
    named = [fault for fault in of_world if any(word in fault.name for word in words)]
    return named and [of_world[0], *(fault for fault in named if fault is not of_world[0])]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for faults.json (runs/bench)")
    parser.add_argument("--steps", type=int, help="of each run (12 with --quick, else 50)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="faults named so, and one run without")
    options = parser.parse_args(arguments)
    steps = options.steps or (12 if options.quick else 50)
    console, rows = Console(), []
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        for world in WORLDS:
            faults = chosen(world, options.only)
            if not faults:
                continue
            with cluster_of(world) as address:
                runs = enumerate(track(faults, f"{world}: runs"))
                rows += compare([measure(fault, steps, Path(temporary) / f"{world}-{i}", address) for i, fault in runs])
            machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
            results = {"machine": machine, "quick": options.quick, "steps": steps, "settings": SETTINGS, "faults": rows}
            (options.out / "faults.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(table(rows))
    console.print(f"written to {options.out / 'faults.json'}")


if __name__ == "__main__":
    main()
