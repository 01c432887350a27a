"""Small worker classes for the tests of cluster/: they must be importable in worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


class Plain:
    """Does what a test wants of a worker."""

    def __init__(self, tag: str = "plain") -> None:
        self.tag = tag
        self.calls = 0

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

    def fail(self, what: str) -> None:
        raise ValueError(f"cannot do {what}")

    def fail_strangely(self) -> None:
        error = ValueError("cannot be pickled")
        error.trouble = lambda: None
        raise error

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")


class NeverStarts:
    """Its model is not there."""

    def __init__(self) -> None:
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
