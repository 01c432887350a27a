"""A worker that computes, for the tests of what heartbeats change; apart from the others, which start faster without torch."""

from __future__ import annotations

import os
import threading
import time

import torch


class Torch:
    """Notes what a call finds: in which thread it runs, with how many of torch's, and in which order calls come."""

    def __init__(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.calls: list[object] = []
        self.at_once = 0

    def note(self, what: object) -> object:
        assert self.at_once == 0, "calls run one at a time"
        self.at_once += 1
        time.sleep(0.01)
        self.calls.append(what)
        self.at_once -= 1
        return what

    def noted(self) -> list[object]:
        return self.calls

    def threads(self) -> tuple[int, int]:
        return threading.get_ident(), torch.get_num_threads()

    def multiply(self, seconds: float) -> int:
        matrix, end = torch.randn(1500, 1500), time.monotonic() + seconds
        while time.monotonic() < end:
            matrix @ matrix
        return os.getpid()

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()
