"""A cluster's job server: reached soon or not at all; then given jobs and followed with patience, for it may go and come again."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import aiohttp
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.connect import set_defaults
from pipelines.recipe.errors import Failed, UserError

CONNECT_S, CALL_S = 5.0, 30.0
LOOK_S = 30.0  # a log that is silent for so long may be one whose connection is gone
AGAIN_S = 2.0
LOST_S = 600.0
# `ray job stop` asks first (SIGTERM: the run finishes its step and writes a checkpoint) and kills after so long; Ray's own is 3
STOP_S = 300
DROPPED = (OSError, RuntimeError, aiohttp.ClientError)

T = TypeVar("T")


class ClusterLost(Failed):
    """The job server has not answered for LOST_S."""


class Refused(Failed):
    """The job server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the cluster's job server answered {status}: {text.strip()[:500]}")
        self.status = status


class Client(JobSubmissionClient):
    """Ray's own, which waits no longer than CALL_S for an answer."""

    def ray_version(self) -> str:
        """The cluster's."""
        return self._do_request("GET", "/api/version").json()["ray_version"]

    def _do_request(self, *args: Any, **kwargs: Any) -> Any:
        return super()._do_request(*args, **kwargs, timeout=(CONNECT_S, CALL_S))

    def _raise_error(self, response: Any) -> NoReturn:
        raise Refused(response.status_code, response.text)


def reach(address: str | None) -> Client:
    """The job server at http://HOST:PORT (default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS).

    Raises UserError if there is no address, nothing answers, it asks for another token, or it runs another Ray.
    """
    if address is None:
        address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    if not address.startswith(("http://", "https://")):
        given = f"the address {address!r} is none of a job server" if address else "no address of a cluster is given"
        raise UserError(
            f"{given}: set --address or RAY_API_SERVER_ADDRESS, such as http://HOST:8265, where its dashboard is"
        )
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets this, and RAY_ADDRESS, win over any argument
    set_defaults()
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        client = Client(address)
        version = client.ray_version()
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {address} does not let this in ({_first_sentence(error)}): set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (a file) to the cluster's token"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"no job server of Ray answers at {address} ({error}): is the cluster up, with its dashboard, and is its port "
            "reached from here?"
        ) from None
    if version != ray.__version__:
        raise UserError(
            f"the cluster at {address} runs ray {version}, but this repository ray {ray.__version__}: install the same on both"
        )
    return client


class Jobs:
    """Requests to the job server. Every method raises ClusterLost; `note` is called when it is gone and when it is back."""

    def __init__(self, client: Client, note: Callable[[str], None]) -> None:
        self.client, self.note = client, note

    def running(self) -> list[JobDetails]:
        """The jobs that have not ended."""
        return [job for job in self._patiently(self.client.list_jobs) if not job.status.is_terminal()]

    def details(self, job: str) -> JobDetails | None:
        """What the cluster knows of a job; None if it knows no such job, as after it was restarted."""

        def ask() -> JobDetails | None:
            try:
                return self.client.get_job_info(job)
            except Refused as error:
                if error.status == 404:
                    return None
                raise

        return self._patiently(ask)

    def send(self, job: str, entrypoint: str, package: Path, metadata: Mapping[str, str]) -> None:
        """Start a job, once."""
        runtime_env = {"working_dir": str(package), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}

        def send() -> None:
            if self.details(job) is None:  # else it had arrived, though the answer had not
                self.client.submit_job(
                    entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, metadata=dict(metadata)
                )

        self._patiently(send)

    def follow(self, job: str, write: Callable[[str], None]) -> JobDetails | None:
        """Write a job's log until it ends; what it ended with, None if the cluster no longer knows it."""
        log = _Log(self.client, job, write)
        while True:
            with suppress(*DROPPED):
                asyncio.run(log.attach())
            details = self.details(job)
            if details is None:
                return None
            if details.status.is_terminal():
                with suppress(*DROPPED):
                    log.finish()
                return details
            time.sleep(AGAIN_S)

    def _patiently(self, call: Callable[[], T]) -> T:
        give_up = None
        while True:
            try:
                answer = call()
            except (OSError, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                if give_up is None:
                    give_up = time.monotonic() + LOST_S
                    self.note(f"the cluster does not answer; it is tried for {LOST_S / 60:.0f} minutes ({error})")
                if time.monotonic() > give_up:
                    raise ClusterLost(
                        f"the cluster has not answered for {LOST_S / 60:.0f} minutes ({error})"
                    ) from error
                time.sleep(AGAIN_S)
            else:
                if give_up is not None:
                    self.note("the cluster answers again")
                return answer


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].partition(". ")[0]


class _Log:
    """A job's log, written as far as it was not yet, however often it is attached to."""

    def __init__(self, client: Client, job: str, write: Callable[[str], None]) -> None:
        self.client, self.job, self.write = client, job, write
        self.written = 0  # characters

    async def attach(self) -> None:
        """Follow the log until the server ends it, the connection drops, or it is silent though the job has ended."""
        reading, ended = asyncio.ensure_future(self._read()), False
        try:
            while not (await asyncio.wait([reading], timeout=LOOK_S))[0]:
                if ended:
                    return
                ended = (await asyncio.to_thread(self.client.get_job_info, self.job)).status.is_terminal()
            reading.result()
        finally:
            reading.cancel()

    def finish(self) -> None:
        """Write what is left of an ended job's log."""
        self.write(self.client.get_job_logs(self.job)[self.written :])

    async def _read(self) -> None:
        place = 0
        async for text in self.client.tail_job_logs(self.job):
            fresh = text[max(0, self.written - place) :]
            place += len(text)
            self.written = max(self.written, place)
            self.write(fresh)
