"""Workers on Ray that raise or die while they start: what is tried again, and what is told."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.executors.on_ray import RayExecutor, Task, WorkerStartError
from tests.cluster.helpers import outcomes, value_of
from tests.cluster.plain_actors import NotThis, Rank


class Unlucky(Rank):
    """Each start takes a line of the file `plan`: "well", "dies", or a mistake."""

    def __init__(self, plan: str, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(rank, ranks)
        with Path(plan).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            first, *others = file.read().splitlines()
            file.seek(0)
            file.truncate()
            file.write("\n".join(others))
        if first == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif first != "well":
            raise NotThis(first)


class Deep(Rank):
    """Raises many calls below its constructor."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        def even(depth: int) -> None:
            if depth == 0:
                raise OSError("the disk is full")
            odd(depth - 1)

        def odd(depth: int) -> None:
            even(depth - 1)

        even(100)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The keyword arguments of an unlucky worker with these lines in its plan."""

    def write(*lines: str) -> dict[str, str]:
        (tmp_path / "plan").write_text("\n".join(lines))
        return {"plan": str(tmp_path / "plan")}

    return write


@pytest.mark.parametrize("gang", [False, True])
def test_a_worker_that_dies_in_its_first_start_is_started_again(
    start: Callable[..., RayExecutor], plan: Callable[..., dict[str, str]], gang: bool
) -> None:
    executor = start(Unlucky, plan("dies", "well"), gang=gang)
    assert value_of(executor, "pool", "add", 1, 1) == 2


def test_workers_that_die_together_count_once(
    start: Callable[..., RayExecutor], plan: Callable[..., dict[str, str]]
) -> None:
    executor = start(Unlucky, plan(*["dies"] * 3, *["well"] * 3), size=3, max_start_failures=3)
    assert executor.status()["pool"].ready == 3


@pytest.mark.parametrize("gang", [False, True])
def test_workers_that_die_in_every_start_end_it(
    start: Callable[..., RayExecutor], plan: Callable[..., dict[str, str]], gang: bool
) -> None:
    with pytest.raises(WorkerStartError, match="2 failed in a row"):
        start(Unlucky, plan("dies", "dies", "well"), gang=gang, max_start_failures=2)


@pytest.mark.parametrize("gang", [False, True])
def test_what_one_node_cannot_use_in_mid_run_is_tried_again_and_is_nobodys_mistake(
    start: Callable[..., RayExecutor], plan: Callable[..., dict[str, str]], gang: bool
) -> None:
    executor = start(
        Unlucky, plan("well", "no GPU here", "no GPU here"), gang=gang, mistakes=(NotThis,), max_start_failures=2
    )
    os.kill(value_of(executor, "pool", "pid"), signal.SIGKILL)
    if gang:
        executor.restart("pool")
    executor.submit(Task("pool", "pid", "is lost"))
    executor.submit(Task("pool", "pid", "waits for ever"))
    with pytest.raises(WorkerStartError, match=r"(?s)2 failed in a row.*no GPU here") as raised:
        outcomes(executor, 2)
    assert type(raised.value) is WorkerStartError


@pytest.mark.parametrize("gang", [False, True])
def test_what_a_constructor_raises_is_told_in_its_last_lines(start: Callable[..., RayExecutor], gang: bool) -> None:
    with pytest.raises(WorkerStartError, match=r"OSError: the disk is full$") as raised:
        start(Deep, gang=gang)
    assert len(str(raised.value).splitlines()) < 30
