"""What Ray's errors mean to a driver: whose fault it was, and the text that helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.errors import ClusterError
from cluster.tasks import Failure, WorkerMistakeError, WorkerStartError
from cluster.workers.tracebacks import gpu_is_lost

MESSAGE_CHARS = 4000
FETCH_S = 60.0  # a first return value is small and exists already: if it does not come, its node is gone
_WORKER_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


@contextmanager
def in_its_words() -> Iterator[None]:
    """What Ray raises within ends the program in Ray's words: raises ClusterError."""
    try:
        yield
    except RayError as error:
        raise ClusterError(str(error)) from error


def result_of(ref: ray.ObjectRef, mistakes: tuple[type[Exception], ...] = ()) -> tuple[Any, Failure | None]:
    """The value of a call that is done, or its failure. What is raised of `mistakes` is the user's."""
    try:
        return ray.get(ref, timeout=FETCH_S), None
    except Exception as error:
        return None, failure_of(error, mistakes)


def failure_of(error: Exception, mistakes: tuple[type[Exception], ...] = ()) -> Failure:
    """The failure behind an error that `ray.get` raised for a call's return value.

    An error inside the worker comes wrapped in a RayTaskError. When what is inside is a loss that Ray reports, the call
    never ran: Ray could not bring one of its arguments, whose maker or node is gone. The worker is not to blame. When its
    GPU is lost to it, so is the worker, although its process lives.
    """
    if isinstance(error, RayTaskError):
        cause = innermost(error)
        if isinstance(cause, (ObjectLostError, *_WORKER_LOST)):
            return Failure("object_lost", tail(str(cause)))
        if isinstance(cause, (WorkerMistakeError, *mistakes)):
            return Failure("mistake", str(cause))
        if isinstance(cause, WorkerStartError):
            return Failure("raised", str(cause))
        text = tail(error.traceback_str if hasattr(error, "traceback_str") else str(error))
        return Failure("worker_lost" if gpu_is_lost(text) else "raised", text)
    if isinstance(error, ObjectLostError):
        return Failure("object_lost", tail(str(error)))
    if isinstance(error, _WORKER_LOST):
        return Failure("worker_lost", tail(str(error)))
    return Failure("raised", tail(f"{type(error).__name__}: {error}"))


def innermost(error: Exception) -> Exception:
    """The exception inside nested RayTaskErrors."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    return error


def tail(text: str) -> str:
    """The end of a text, where tracebacks say what happened, without the colours that Ray gives it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return text if len(text) <= MESSAGE_CHARS else "..." + text[-MESSAGE_CHARS:]
