"""The books of a run: what each step's record says, gathered from outcomes as they come."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.messages import DrawReport, Scores
from cluster.tasks import PoolStatus
from pipelines.loop_messages import Progress, Train, Unit

POOL_OF = {"draw": "rollout", "score": "reward", "update": "policy"}


class StepLog:
    """Gathers figures between the end of one step and the end of the next.

    `images` counts the images trained on since the run's first start, `seconds()` the time of all its starts.
    """

    def __init__(self, digest: str, images: int, seconds: float) -> None:
        self.digest = digest
        self.images = images
        self.quarantined = 0
        self._earlier_seconds = seconds
        self._began = self._step_began = time.monotonic()
        self._stage_seconds: dict[str, float] = defaultdict(float)
        self._tasks: Counter[str] = Counter()
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._cut_captions: set[tuple[int, int]] = set()
        self._record: dict[str, Any] = {}

    def seconds(self) -> float:
        """Time spent on the run, earlier starts included."""
        return self._earlier_seconds + time.monotonic() - self._began

    def drawn(self, unit: Unit, report: DrawReport, seconds: float) -> None:
        """A chunk was drawn in `seconds` as seen by the driver."""
        self._count("draw", seconds)
        if unit.purpose == "train" and report.cut:
            self._cut_captions.add((unit.step, unit.group))

    def scored(self, unit: Unit, scores: Scores, seconds: float) -> None:
        """A chunk was scored."""
        self._count("score", seconds)
        if unit.purpose == "train":
            for name, values in scores.metrics.items():
                self._metrics[name] += values

    def step_begins(
        self, train: Train, categories: Sequence[str], rewards_PK: np.ndarray, advantages_PK: np.ndarray
    ) -> None:
        """A step's groups go to the policy; P may be smaller than planned, or 0, when groups were quarantined."""
        staleness = [train.step - 1 - version for version in train.versions]
        by_category = defaultdict(list)
        for category, rewards_K in zip(categories, rewards_PK, strict=True):
            by_category[category].append(float(rewards_K.mean()))
        self._record = {
            "step": train.step,
            "policy_version": train.step,
            "staleness": staleness,
            "groups": len(train.groups),
            "images": int(rewards_PK.size),
            "reward_mean": _over(np.mean, rewards_PK),
            "reward_std": _over(np.std, rewards_PK),
            "reward_std_in_group": _over(np.mean, rewards_PK.std(axis=1)) if rewards_PK.size else None,
            "equal_groups": int(sum(np.ptp(rewards_K) == 0 for rewards_K in rewards_PK)),
            "advantage_mean": _over(np.mean, advantages_PK),
            "advantage_std": _over(np.std, advantages_PK),
            "by_category": {name: float(np.mean(values)) for name, values in by_category.items()},
        }

    def step_ends(
        self,
        digest: str,
        figures: Mapping[str, float],
        export_seconds: float,
        pools: Mapping[str, PoolStatus],
        progress: Progress,
    ) -> dict[str, Any]:
        """The record of the step that was trained; counting begins anew."""
        self.digest = digest
        now = time.monotonic()
        wall = now - self._step_began
        figures = dict(figures)
        self._count("update", figures.pop("seconds") + export_seconds)
        self.images += self._record["images"]
        busy = {
            pool: self._stage_seconds[stage] / (wall * max(1, pools[pool].wanted)) for stage, pool in POOL_OF.items()
        }
        record = {
            **self._record,
            **figures,
            **{name: float(np.mean(values)) for name, values in self._metrics.items()},
            "seconds": {"step": wall, "export": export_seconds, **self._stage_seconds},
            "tasks": dict(self._tasks),
            "busy": {pool: min(1.0, share) for pool, share in busy.items()},
            "workers": {name: status.ready for name, status in pools.items()},
            "bytes_in_flight": progress.bytes_in_flight,
            "images_per_s": self._record["images"] / wall,
            "cut_captions": len(self._cut_captions),
            "quarantined": self.quarantined,
            "digest": digest,
        }
        self._step_began = now
        for gathered in (self._stage_seconds, self._tasks, self._metrics, self._cut_captions):
            gathered.clear()
        return record

    def _count(self, stage: str, seconds: float) -> None:
        self._stage_seconds[stage] += seconds
        self._tasks[stage] += 1


def _over(figure: Any, values: np.ndarray) -> float | None:
    return float(figure(values)) if values.size else None
