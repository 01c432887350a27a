"""Small worker classes for the tests of cluster/: they must be importable in worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import ray


class Plain:
    """Does what a test wants of a worker."""

    def __init__(self, tag: str = "plain") -> None:
        self.tag = tag
        self.calls = 0

    def info(self) -> dict:
        return {"tag": self.tag}

    def pid(self) -> int:
        return os.getpid()

    def add(self, left: int, right: int) -> int:
        return left + right

    def squares(self, num: int) -> tuple[dict, np.ndarray, dict[str, np.ndarray]]:
        values = np.arange(num, dtype=np.int64) ** 2
        return {"tag": self.tag, "num": num}, values, {"halves": values / 2}

    def total(self, values: np.ndarray, more: dict[str, np.ndarray]) -> float:
        assert not values.flags.writeable, "payloads are shared: they must be read-only"
        assert not more["halves"].flags.writeable
        return float(values.sum() + more["halves"].sum())

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def hold(self, begun: str) -> None:
        """Makes the file `begun`, and does not come to an end."""
        Path(begun).touch()
        time.sleep(600)

    def fail(self, what: str) -> None:
        raise ValueError(f"cannot do {what}")

    def fail_strangely(self) -> None:
        error = ValueError("cannot be pickled")
        error.trouble = lambda: None
        raise error

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    def gpus(self) -> str | None:
        """What CUDA would be shown."""
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def where(self) -> dict:
        context = ray.get_runtime_context()
        return {"node": context.get_node_id(), "pid": os.getpid()}


class Poisoned(Plain):
    """Fails each task from the first "poison" on, at once, by what that says."""

    def __init__(self) -> None:
        super().__init__()
        self.error = ""

    def do(self, what: str) -> int:
        self.error = self.error or what
        if self.error:
            raise RuntimeError(self.error)
        return self.sleep(0.05)


class Rank(Plain):
    """One of a gang."""

    def __init__(self, rank: int, ranks: int, tag: str = "rank") -> None:
        super().__init__(tag)
        self.rank, self.ranks = rank, ranks
        self.joined = ""

    def address(self) -> str:
        return f"rank {self.rank} of {self.ranks}"

    def join(self, address: str) -> None:
        self.joined = address

    def met(self) -> str:
        return self.joined

    def note_pid(self, folder: str) -> None:
        (Path(folder) / str(self.rank)).write_text(str(os.getpid()))

    def wait_for_rank_0(self, pid: int) -> None:
        """Rank 0 sleeps; the others notice when it has died, as a collective does."""
        while self.rank == 0 or Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        raise ConnectionError("connection closed by peer")


class RanksNeverMeet(Rank):
    """Rank 1 cannot join; rank 0 would wait for it for ever."""

    def join(self, address: str) -> None:
        if self.rank == 1:
            raise OSError("no route to host")
        time.sleep(60)


class RanksWait(Rank):
    """Wait for each other for ever."""

    def join(self, address: str) -> None:
        time.sleep(60)


class RanksJoinWhenTold(Rank):
    """Join once the file `gate` is there."""

    def __init__(self, rank: int, ranks: int, gate: str) -> None:
        super().__init__(rank, ranks)
        self.gate = Path(gate)

    def join(self, address: str) -> None:
        while not self.gate.exists():
            time.sleep(0.01)


class RanksJoinSometimes(Rank):
    """The lines of the file `plan` say whether a start works ("well" or what is wrong); each start takes one."""

    def __init__(self, rank: int, ranks: int, plan: str) -> None:
        super().__init__(rank, ranks)
        self.plan = Path(plan)

    def address(self) -> str:
        first, *others = self.plan.read_text().splitlines()
        self.plan.write_text("\n".join(others))
        return first

    def join(self, address: str) -> None:
        if address != "well":
            raise OSError(address)


class NotThis(ValueError):
    """What a worker says of what it was given and cannot use."""


class Picky:
    """Cannot use what it is given; as a rank of a gang, neither."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        raise NotThis("size = 36: give a multiple of 8 [/b]")


class RanksFindOut(Rank):
    """Cannot use what they were given either, but find it out when they meet."""

    def join(self, address: str) -> None:
        Picky()


class NeverStarts:
    """Its model is not there."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        raise FileNotFoundError("no model at /nowhere")


class StartsSlowly:
    """Takes longer than anyone waits."""

    def __init__(self) -> None:
        time.sleep(60)


class StartsOnce:
    """The first start works, later ones do not. `marker` is a path that the first one creates."""

    def __init__(self, marker: str) -> None:
        if Path(marker).exists():
            raise OSError("the disk is full")
        Path(marker).touch()

    def pid(self) -> int:
        return os.getpid()
