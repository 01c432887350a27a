"""Whose fault a Ray error is."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayError,
    RayTaskError,
)

from cluster.workers.ray_errors import MESSAGE_CHARS, failure_of, tail

LOST = ObjectLostError("ab", "10.0.0.1", "call site")
OWNER_DIED = OwnerDiedError("ab", "10.0.0.1", "call site")


def in_worker(cause: Exception) -> RayTaskError:
    """What `ray.get` raises when a call ended with `cause` in its worker."""
    return RayTaskError("score", f"Traceback: {cause}", cause, proctitle="ray::score", pid=1, ip="10.0.0.1")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ActorDiedError(), "worker_lost"),
        (ActorUnavailableError("away", b"1" * 16), "worker_lost"),
        (LOST, "object_lost"),
        (OWNER_DIED, "object_lost"),
        (in_worker(LOST), "object_lost"),
        (in_worker(in_worker(OWNER_DIED)), "object_lost"),
        (in_worker(ActorDiedError()), "object_lost"),  # the argument's maker died, not the worker
        (in_worker(ValueError("bad prompt")), "raised"),
        (in_worker(ValueError("bad prompt")).as_instanceof_cause(), "raised"),
        (in_worker(RayError("an error that cannot be pickled")), "raised"),
        (in_worker(RuntimeError("CUDA error: uncorrectable ECC error encountered")), "worker_lost"),
        (in_worker(RuntimeError("torch.AcceleratorError: CUDA error: misaligned address")), "worker_lost"),
        (
            in_worker(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`")),
            "worker_lost",
        ),
        (in_worker(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")), "worker_lost"),
        (in_worker(RuntimeError("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")), "raised"),
        (in_worker(ValueError('File "torch/backends/cudnn/rnn.py": no such layer')), "raised"),
        (ObjectStoreFullError("full"), "raised"),
    ],
)
def test_a_ray_error_is_traced_to_its_cause(error: Exception, cause: str) -> None:
    assert failure_of(error).cause == cause


def test_the_message_is_the_workers_traceback() -> None:
    assert "Traceback: bad prompt" in failure_of(in_worker(ValueError("bad prompt"))).message
    assert "Traceback: bad prompt" in failure_of(in_worker(ValueError("bad prompt")).as_instanceof_cause()).message


def test_long_messages_keep_their_end_and_no_colours() -> None:
    assert tail("\x1b[36mred\x1b[39m") == "red"
    long = tail("start" + "x" * MESSAGE_CHARS + "end")
    assert long.startswith("...x")
    assert long.endswith("xend")
