"""Sends a training run to a Ray cluster as a job, follows it, and sends it again when it fails for no fault of the user's.

    python -m pipelines.submit RECIPE --out PLACE [--address http://HOST:8265] [--set key=value ...] [--retries N]
                               [--run-id ID] [--no-wait]

The job is `python -m pipelines.train RECIPE --out PLACE --set ... --resume`: each try goes on from the newest checkpoint.
The job's log goes to standard output as it is, what this command itself says to standard error.

Exit codes: the run's own (0 done, 2 a user's mistake, 130 stopped or, with Ctrl-C, only no longer followed, 1 anything else).
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cluster import speaking
from cluster.workers.ray_errors import in_its_words
from pipelines.preflight.checks import sample_prompts
from pipelines.recipe.arguments import path_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.run_folder.provenance import git_revision
from pipelines.submitting.job_server import Jobs, reach
from pipelines.submitting.package import (
    check_out,
    check_paths,
    check_size,
    list_files,
    mebibytes,
    name_in,
    pack,
    takes_prompts,
)
from pipelines.submitting.supervise import Order, check_new, how_to, note, send, supervise

RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="echoray-") as folder, in_its_words():
        return submit(options, Path(folder) / "working_dir.zip")


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.submit", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=path_of, help="a TOML file inside the repository, such as recipes/toy.toml")
    parser.add_argument(
        "--out",
        required=True,
        help="the run folder: an absolute path that outlives the job, or a URL such as s3://bucket/run",
    )
    parser.add_argument(
        "--address",
        help="the cluster's job server, http://HOST:8265 (default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as rollout.size=2"
    )
    parser.add_argument(
        "--retries", type=int, default=3, metavar="N", help="how often a failed job is sent again (default: 3)"
    )
    parser.add_argument("--run-id", metavar="ID", help="names the jobs ID-1, ID-2, ... (default: <run>-<time>)")
    parser.add_argument(
        "--no-wait", action="store_true", help="send the job once and end; it is not followed or sent again"
    )
    return parser


def submit(options: argparse.Namespace, package: Path) -> int:
    """Checks everything that can be known here, then sends the job."""
    if options.retries < 0:
        raise UserError(f"--retries {options.retries}: give a number of 0 or more")
    recipe = load_recipe(options.recipe, options.set)
    out = check_out(options.out)
    files = list_files()
    check_size(files)
    name = name_in(options.recipe, files)
    check_paths(recipe, files)
    if takes_prompts(recipe.data, files):
        sample_prompts(recipe)
    run = recipe.run.name or out.rpartition("/")[2]
    run_id = options.run_id
    if run_id is None:
        run_id = f"{_plain(run)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not RUN_ID.fullmatch(run_id):
        raise UserError(
            f"--run-id {run_id!r}: letters, digits and . _ - are allowed, and it begins with a letter or a digit"
        )
    client = reach(options.address)
    jobs = Jobs(client, note)
    # job_name is the name that Ray's dashboard shows
    metadata = {"job_name": run, "run": run, "recipe": name, "out": out}
    order = Order(run_id, entrypoint(name, out, options.set), package, metadata)
    if revision := git_revision():
        order.metadata["git_revision"] = revision
    check_new(jobs, order)
    pack(files, package)
    note(f"{len(files)} files, {mebibytes(package.stat().st_size)}; git revision {revision or 'unknown'}")
    if options.no_wait:
        send(jobs, order, 1)
        note(how_to(order.job(1), client.get_address()))
        return 0
    return supervise(jobs, order, options.retries)


def entrypoint(recipe: str, out: str, overrides: Sequence[str]) -> str:
    """The job's command line, for a shell."""
    settings = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["python", "-m", "pipelines.train", recipe, "--out", out, *settings, "--resume"])


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"


if __name__ == "__main__":
    sys.exit(main())
