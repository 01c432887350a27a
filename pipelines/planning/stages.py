"""Stages that only sleep, in the place of image model, judge, policy and storage: for planning, and for what orchestration costs.

They sleep in real time, or in virtual time as `cluster/executors/virtual.py` tells them. Each duration is a pure function of what is drawn,
scored or trained, so that every run of a plan has the same work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.messages import DrawReport, DrawRequest, Latents, Prompt, Scores

STRAGGLERS = 0.01  # the share of tasks that are stragglers


@dataclass
class Stage:
    """One worker. `seconds` of a task, on average; `jitter`: relative standard deviation; `straggling`: times as long."""

    seconds: float
    jitter: float = 0.0
    straggling: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep)

    def work(self, *identity: Hashable) -> float:
        """Take the time that this piece of work takes; returns it."""
        rng = random.Random(repr(identity))
        shape = self.jitter**-2 if self.jitter else 0.0
        seconds = self.seconds * (rng.gammavariate(shape, 1 / shape) if shape else 1.0)  # never negative
        if rng.random() < STRAGGLERS:
            seconds *= self.straggling
        self.sleep(seconds)
        return seconds


@dataclass
class SleepingRollout(Stage):
    """Draws nothing: images and latents are zeros, but the first bytes of the images are a seed for the scoring.

    payload_bytes: what a chunk holds; said_bytes: what it says to hold, if that is more.
    """

    payload_bytes: int = 0
    said_bytes: int = 0

    def draw(self, request: DrawRequest, adapter: Any) -> tuple:
        seconds = self.work("draw", request.parts[0].noise_seeds[0])
        half = max(8, self.payload_bytes // 2)
        reports, payloads = [], []
        for part in request.parts:
            images = np.zeros(half, np.uint8)
            images[:8] = np.frombuffer(part.noise_seeds[0].to_bytes(8, "little"), np.uint8)
            report = DrawReport(
                caption=part.caption,
                cut=False,
                policy_version=request.policy_version,
                adapter_sha256=request.adapter_sha256,
                num_bytes=max(2 * half, self.said_bytes),
                seconds=seconds,
            )
            reports.append(report)
            payloads += [images, Latents(np.zeros((1, 1, 1, half // 4), np.float32))]
        return tuple(reports), *payloads


@dataclass
class SleepingReward(Stage):
    """Scores nothing: rewards are random. pool: of one of several rewards, so that each has long tasks of its own."""

    images: int = 2
    pool: str = ""

    def score(self, prompt: Prompt, images: np.ndarray) -> Scores:
        seed = int.from_bytes(images[:8].tobytes(), "little")
        seconds = self.work("score", seed, *([self.pool] if self.pool else []))
        rng = random.Random(seed)
        return Scores(tuple(rng.random() for _ in range(self.images)), seconds=seconds)


@dataclass
class SleepingPolicy(Stage):
    """Trains nothing: an adapter is its version."""

    rank: int = 0
    ranks: int = 1

    def address(self) -> str:
        return "nowhere"

    def join(self, address: str) -> None:
        pass

    def update(self, step: int, shares: tuple, *latents: Latents) -> dict[str, float]:
        return {"seconds": self.work("update", step), "loss": 0.0}

    def export(self, version: int) -> tuple[dict[str, Any], np.ndarray]:
        return {"sha256": str(version), "seconds": 0.0}, np.full(1, version)

    def snapshot(self, *adapters: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"bytes": 0, "seconds": 0.0}, {}


class SleepingStorage(Stage):
    """Writes nothing."""

    def write(self, *document: Any) -> dict[str, Any]:
        return {"files": {}, "bytes": 0, "seconds": self.work("write")}
