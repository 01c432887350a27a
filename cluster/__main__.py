"""Looks at a run and steers it, from any machine that reaches its Ray cluster.

    python -m cluster status [--once]      a live table of the run's pools
    python -m cluster scale POOL SIZE      give a pool another number of workers
    python -m cluster stop                 finish the step, write a checkpoint, end

Exit codes: 0 done, 2 a user's mistake, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster import speaking
from cluster.control.client import Run, RunEnded, find_run
from cluster.control.status_table import show
from cluster.errors import UserError
from cluster.speaking import MISTAKE, fail
from cluster.tasks import STARTING
from cluster.workers.ray_errors import in_its_words

LOOK_EVERY_S = 1.0


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        with in_its_words():
            run = find_run(options.address, options.run)
            return {"status": status, "scale": scale, "stop": stop}[options.command](run, options, speaking.console())
    finally:
        ray.shutdown()


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--run", help="which run, if there are several")
    where.add_argument(
        "--address",
        default="",
        help="the run's Ray cluster, HOST:PORT (default: RAY_ADDRESS, else the clusters on this machine)",
    )
    parser = argparse.ArgumentParser(prog="python -m cluster", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("status", parents=[where], help="a live table of the run's pools")
    command.add_argument("--once", action="store_true", help="show it once, as where there is no terminal")
    command = commands.add_parser("scale", parents=[where], help="give a pool another number of workers")
    command.add_argument("pool", help="such as rollout or reward")
    command.add_argument("size", type=int, help="how many workers it shall have")
    commands.add_parser("stop", parents=[where], help="finish the step, write a checkpoint, end")
    return parser


def status(run: Run, options: argparse.Namespace, console: Console) -> int:
    """Shows the run's pools, until it ends."""
    if options.once or not console.is_terminal:
        console.print(show(run.name, *run.view()))
        return 0
    with Live(show(run.name, *run.view()), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(LOOK_EVERY_S)
                live.update(show(run.name, *run.view()), refresh=True)
        except KeyboardInterrupt:
            pass
        except RunEnded as ended:
            speaking.say(live.console, str(ended))
    return 0


def scale(run: Run, options: argparse.Namespace, console: Console) -> int:
    """Asks for another size of a pool, if the run's last status allows it."""
    known, _ = run.view()
    if known and known["state"] != STARTING:
        check_scale(known["pools"], options.pool, options.size)
    return ask(run, console, "scale", options.pool, options.size)


def stop(run: Run, options: argparse.Namespace, console: Console) -> int:
    """Asks the run to end. One that ends before it answers has done so, too."""
    try:
        return ask(run, console, "stop")
    except RunEnded as ended:
        speaking.say(console, str(ended))
        return 0


def ask(run: Run, console: Console, *command: Any) -> int:
    """Gives a command, and prints what became of it."""
    with console.status(Text(f"waiting for {run.name}")):
        answer = run.ask(*command)
    if answer.startswith("refused"):
        return fail("error", answer, MISTAKE)
    speaking.say(console, answer)
    return 0


def check_scale(pools: dict[str, dict[str, Any]], pool: str, size: int) -> None:
    """Raises UserError unless the pool may have this size."""
    elastic = [name for name, figures in pools.items() if figures["elastic"]]
    if pool not in elastic:
        what = "is a gang, whose size is fixed during a run" if pool in pools else "is no pool of this run"
        raise UserError(f"{pool} {what}: choose from {', '.join(elastic)}")
    smallest, largest = pools[pool]["min"], pools[pool]["max"]
    if size < smallest or (largest is not None and size > largest):
        limits = f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
        raise UserError(f"{size} workers are outside of the limits of {pool}: {limits}")


if __name__ == "__main__":
    sys.exit(main())
