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
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from cluster import speaking
from cluster.stops import STOPPED
from cluster.workers.ray_errors import in_its_words
from pipelines.preflight.checks import sample_prompts
from pipelines.recipe.arguments import path_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.run_folder.provenance import git_revision
from pipelines.submitting.job_server import STOP_S, ClusterLost, Jobs, reach
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

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
FINAL = (0, 2, STOPPED)  # exit codes after which another try would change nothing, or is not wanted
RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Order:
    """What is sent, try after try: `run_id` and the number of the try name a job."""

    run_id: str
    entrypoint: str
    package: Path
    metadata: dict[str, str]

    def job(self, attempt: int) -> str:
        """The job's submission id."""
        return f"{self.run_id}-{attempt}"


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


def check_new(jobs: Jobs, order: Order) -> None:
    """Raises UserError if a job that has not ended writes to the same place, or if the first job's id is taken."""
    for job in jobs.running():
        if (job.metadata or {}).get("out", "").rstrip("/") == order.metadata["out"]:
            raise UserError(
                f"the job {job.submission_id} has not ended and writes to {order.metadata['out']} too: stop it "
                f"(ray job stop {shlex.quote(str(job.submission_id))}) or give another --out"
            )
    if jobs.details(order.job(1)):
        raise UserError(f"there already was a job {order.job(1)}: give another --run-id")


def send(jobs: Jobs, order: Order, attempt: int) -> None:
    """Starts the job of a try."""
    metadata = {**order.metadata, "attempt": str(attempt)}
    jobs.send(order.job(attempt), order.entrypoint, order.package, metadata)
    note(f"{order.job(attempt)} is sent: {order.entrypoint}")


def supervise(jobs: Jobs, order: Order, retries: int) -> int:
    """Sends and follows one job after the other until one ends for good; its exit code."""
    attempt, address = 1, jobs.client.get_address()
    try:
        while True:
            send(jobs, order, attempt)
            details = jobs.follow(order.job(attempt), _write)
            code = exit_code(details)
            job = order.job(attempt)
            note(f"{job} {what_became(details, code)}; look again: ray job logs {job} --address {shlex.quote(address)}")
            if code in FINAL or attempt > retries:
                return code
            pause = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)
            note(
                f"in {pause:.0f} s it is sent again, to go on from its newest checkpoint (retry {attempt} of {retries})"
            )
            time.sleep(pause)
            attempt += 1
    except KeyboardInterrupt:
        note(f"no longer followed, nor sent again if it fails; the job goes on.\n{how_to(order.job(attempt), address)}")
        return STOPPED
    except ClusterLost as lost:
        raise ClusterLost(
            f"{lost}. If the head is gone, its jobs are too; what the run has written to {order.metadata['out']} is kept. "
            "Give the same command again once the cluster is back: the run goes on from its newest checkpoint"
        ) from lost


def exit_code(details: JobDetails | None) -> int:
    """The driver's, as a shell would give it; 1 if the job ended without one."""
    if details is None:
        return 1
    if details.status == JobStatus.STOPPED:
        return STOPPED
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


def what_became(details: JobDetails | None, code: int) -> str:
    """How a job ended, to be read by people."""
    if details is None:
        return "is unknown to the cluster, which must have been restarted"
    if code == STOPPED:
        return "was stopped on request" + (
            " (Ray says FAILED of every exit code but 0)" if details.status == JobStatus.FAILED else ""
        )
    if details.status == JobStatus.FAILED:
        why = f"exit code {code}" if details.driver_exit_code is not None else (details.message or "no reason is known")
        return f"has failed ({why})"
    return "has succeeded" if details.status == JobStatus.SUCCEEDED else "was stopped"


def how_to(job: str, address: str) -> str:
    """What can be done with a job from now on."""
    job, address = shlex.quote(job), shlex.quote(address)
    return (
        f"follow it: ray job logs --follow {job} --address {address}\n"
        f"its state: ray job status {job} --address {address}\n"
        f"stop it:   ray job stop {job} --address {address}, or python -m cluster stop where the cluster's GCS is reached: "
        f"it finishes its step and writes a checkpoint (within {STOP_S} s)"
    )


def note(text: str) -> None:
    """Says something of this command's own."""
    speaking.say(speaking.console(stderr=True), text)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
