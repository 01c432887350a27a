"""A job that is sent, followed to its end, and sent again when it fails for no fault of the user's."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from cluster import speaking
from cluster.stops import STOPPED
from pipelines.recipe.errors import UserError
from pipelines.submitting.job_server import STOP_S, ClusterLost, Jobs

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
FINAL = (0, 2, STOPPED)  # exit codes after which another try would change nothing, or is not wanted


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


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
