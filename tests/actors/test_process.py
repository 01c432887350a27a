"""What a worker's process sets before its model is loaded: its device, exact algorithms, and what is left after a lack of memory."""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch

from actors import device
from actors.mistake import Mistake
from actors.process import EXACT, Process, leaves_room, prepare, quiet


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch believes in a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: None)


@pytest.mark.parametrize(
    ("name", "share", "chosen"),
    [("auto", 0.0, "cpu"), ("auto", 0.5, "auto"), ("cpu", 1.0, "cpu"), ("cuda", 0.0, "cuda"), ("auto", None, "auto")],
)
def test_without_a_share_of_a_gpu_a_worker_stays_on_the_cpu_whatever_it_sees(
    cuda: None, name: str, share: float | None, chosen: str
) -> None:
    assert prepare(Process(1, share), name) == chosen


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_worker_that_holds_a_gpu_and_sees_none_does_not_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Mistake, match=r"num_gpus = 0\.25 .*NVIDIA driver .*for CUDA .*newer driver"):
        prepare(Process(1, 0.25), name)
    assert prepare(Process(1, 0.25), "cpu") == "cpu"


def test_the_driver_is_read_where_there_is_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    assert device.driver_version() == ""
    said = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version:  gcc 12\n"
    (tmp_path / "version").write_text(said)
    assert device.driver_version() == "580.65.06"
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\n")
    assert device.driver_version() == "535.104.05"


def test_a_run_that_is_to_be_repeated_has_exact_algorithms_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXACT:
        monkeypatch.delenv(name, raising=False)
    prepare(Process(1, deterministic=False))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not EXACT.keys() & os.environ.keys()
    prepare(Process(1))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert {name: os.environ[name] for name in EXACT} == EXACT


def test_after_a_lack_of_memory_the_cache_is_emptied_when_the_tasks_tensors_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[bool] = []
    held: list[weakref.ref] = []

    @leaves_room
    def task(error: Exception) -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise error

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        task(torch.OutOfMemoryError("CUDA out of memory"))
    assert alive == [False]
    with pytest.raises(ValueError, match="something else"):
        task(ValueError("something else"))
    assert alive == [False], "any other error leaves the cache"


def test_a_foreign_launchers_local_rank_does_not_choose_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.policy.zero import _import_deepspeed

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    with redirect_stdout(StringIO()):  # as the engine does
        _import_deepspeed(torch.device("cpu"))
    assert os.environ["LOCAL_RANK"] == "0"
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ


def test_deepspeed_says_errors_alone_whatever_level_it_sets_for_itself() -> None:
    quiet()
    logger = logging.getLogger("DeepSpeed")
    said = [level for level in (logging.INFO, logging.WARNING, logging.ERROR) if logger.filter(record_of(level))]
    assert said == [logging.ERROR]


def record_of(level: int) -> logging.LogRecord:
    return logging.LogRecord("DeepSpeed", level, __file__, 1, "Setting accelerator to CPU", None, None)
