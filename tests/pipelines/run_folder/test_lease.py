"""Who may write in a place: one run at a time, on a disk and at a URL, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.storage import files
from pipelines.recipe.errors import UserError
from pipelines.run_folder import lease
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.lease import (
    FILE_NAME,
    Holder,
    Lease,
    PlaceTaken,
    content_of,
    create,
    lock_of,
    locked,
    machine,
    process_began,
    read,
    replaced,
)
from tests.support.plain_run import in_no_time

ROOT = Path(__file__).resolve().parents[3]
NOBODY = Holder("owner", "elsewhere", "another machine", 7, "1", 1.0)


@pytest.fixture(params=["disk", "s3"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place, on a disk and in S3."""
    if request.param == "disk":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "STALE_S", 3.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)


def lease_of(at: str, take_over: bool = False, said: list[str] | None = None) -> Lease:
    return Lease(at, at, take_over, (said if said is not None else []).append)


def leave(at: str, holder: Holder) -> None:
    """The lease of another run."""
    files.write(f"{at}/{FILE_NAME}", memoryview(content_of(holder)))


@pytest.fixture
def dead_process() -> tuple[int, str]:
    """The id and the beginning of a process of this machine that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = process_began(process.pid)
    process.kill()
    process.wait()
    return process.pid, began


def test_a_second_run_is_refused_at_once_and_told_who_holds_the_place(at: str) -> None:
    with lease_of(at) as first:
        with pytest.raises(UserError, match=rf"in use by a run on \S+ \(process {os.getpid()}, since .*--take-over"):
            lease_of(at).__enter__()
        first.check()
    with lease_of(at):  # it has ended
        pass
    assert not files.exists(f"{at}/{FILE_NAME}")


def test_a_run_that_was_killed_on_this_machine_holds_nothing(at: str, dead_process: tuple[int, str]) -> None:
    pid, began = dead_process
    leave(at, replace(NOBODY, machine=machine(), pid=pid, began=began))
    said: list[str] = []
    with lease_of(at, said=said) as ours:
        ours.check()
    assert said == [], "there was nothing to wait for"


def test_a_process_id_that_was_given_again_is_another_process(at: str) -> None:
    leave(at, replace(NOBODY, machine=machine(), pid=os.getpid(), began="1"))
    with lease_of(at):
        pass


def test_who_waits_for_a_lock_that_is_removed_takes_the_next_one(tmp_path: Path) -> None:
    file = str(tmp_path / FILE_NAME)

    def lock_is_there() -> bool:
        with locked(file):
            return lock_of(file).exists()

    with ThreadPoolExecutor(1) as other:
        with locked(file):
            waiting = other.submit(lock_is_there)
            while not waiting.running():
                time.sleep(0.01)
            time.sleep(0.1)
            lock_of(file).unlink()
        assert waiting.result()


def test_a_run_elsewhere_without_a_sign_of_life_is_replaced_after_a_while(at: str) -> None:
    leave(at, NOBODY)
    said: list[str] = []
    with lease_of(at, said=said):
        pass
    assert "held by a run on elsewhere (process 7" in said[0]


@pytest.fixture
def elsewhere(at: str) -> Iterator[threading.Event]:
    """A run on another machine that counts up, until the place is another's; what is given is set by then."""
    gone = threading.Event()

    def beat() -> None:
        holder = NOBODY
        while not gone.wait(0.2):
            after = replace(holder, beat=holder.beat + 1)
            if not replaced(f"{at}/{FILE_NAME}", holder, after):
                gone.set()
            holder = after

    leave(at, NOBODY)
    thread = threading.Thread(target=beat)
    thread.start()
    yield gone
    gone.set()
    thread.join()


def test_a_run_elsewhere_that_lives_is_respected_whatever_its_clock_says(at: str, elsewhere: threading.Event) -> None:
    with pytest.raises(UserError, match="in use by a run on elsewhere"):
        lease_of(at).__enter__()
    assert not elsewhere.is_set()


def test_a_place_is_taken_over_from_a_run_that_lives_and_that_one_hears_of_it(at: str) -> None:
    with lease_of(at) as first:
        with lease_of(at, take_over=True) as second:
            give_up = time.monotonic() + 30
            while not first._taken_by and time.monotonic() < give_up:
                time.sleep(0.05)
            with pytest.raises(PlaceTaken, match=r"was taken over by a run on .*: this run ends"):
                first.check()
            second.check()
        first_left = read(f"{at}/{FILE_NAME}")
    assert first_left is None
    assert read(f"{at}/{FILE_NAME}") is None


def test_of_many_that_come_at_once_one_gets_the_place(at: str) -> None:
    holders = [replace(NOBODY, owner=str(number)) for number in range(8)]
    file = f"{at}/{FILE_NAME}"
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda holder: create(file, holder), holders)) == 1
        before = read(file)
        others = [replace(NOBODY, owner=f"next {number}") for number in range(8)]
        assert sum(pool.map(lambda holder: replaced(file, before, holder), others)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner": 1}', b"\xff\x00"])
def test_a_damaged_lease_holds_nobody_up(at: str, content: bytes) -> None:
    files.write(f"{at}/{FILE_NAME}", memoryview(content))
    with lease_of(at) as ours:
        ours.check()


def test_a_folder_in_which_nothing_came_to_lie_is_gone_again(tmp_path: Path) -> None:
    with lease_of(str(tmp_path / "a" / "run")):
        assert (tmp_path / "a" / "run" / FILE_NAME).is_file()
    assert not (tmp_path / "a" / "run").exists()


SLEEPER = """
import os
import signal
import sys
from pathlib import Path
from pipelines.run_folder import lease
from tests.support.plain_run import main
from tests.support.plain_world import PlainReward

lease.STALE_S = 3.0  # as for the run that takes over, which waits so long
score, asked = PlainReward.score, Path(sys.argv.pop(1))

def score_or_sleep(*arguments):
    if asked.exists():
        asked.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return score(*arguments)

PlainReward.score = score_or_sleep
sys.exit(main())
"""


def test_two_runs_in_one_folder_the_second_is_refused_or_takes_over_and_the_first_writes_nothing_more(
    plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is stopped for a while, as a machine that sleeps, and wakes up after the second has taken over and ended.

    It is stopped in a task: between a look at the lease and the write that follows, it would write once.
    """
    out, asleep = tmp_path / "run", tmp_path / "asleep"
    given = ["--executor", "local", "--set", "heldout.every=1000", "--set", "loop.checkpoint_every=2"]
    words = [str(plain_world), "--out", str(out), *given, "--set", "loop.steps=100000"]
    command = [sys.executable, "-c", SLEEPER, str(asleep), *words]
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        while not list(out.glob("checkpoints/*/manifest.json")):
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        asleep.touch()
        assert os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED
        steps = len(RunFolder(out).read_metrics()) + 2
        again = [str(plain_world), "--out", str(out), *given, "--set", f"loop.steps={steps}", "--resume"]
        assert in_no_time(again) == 2
        assert f"in use by a run on {socket.gethostname()} (process {first.pid}" in capsys.readouterr().err
        assert in_no_time([*again, "--take-over"]) == 0
        files = {path: path.read_bytes() for path in out.glob("*") if path.is_file()}
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60) == 1
    finally:
        first.kill()
    assert "was taken over by" in (tmp_path / "first.log").read_text()
    assert {path: path.read_bytes() for path in out.glob("*") if path.is_file()} == files
    folder = RunFolder(out)
    assert (folder.read_state()["status"], folder.read_summary()["steps"]) == ("done", steps)
    assert [record.step for record in folder.read_metrics()] == list(range(1, steps + 1))
