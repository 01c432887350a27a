"""Gathers the record of each step from outcomes as they arrive."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.messages import DrawReport, Scores
from cluster.tasks import PoolStatus
from pipelines.engine.messages import GroupKey, Progress, Train, Unit
from pipelines.engine.tickets import Health
from pipelines.recipe.reward import name_of
from pipelines.run_folder.records import StepRecord
from pipelines.training.groups import TRAIN

TIMELINE_CHUNKS = 48  # of a step, the first ones


class StepLog:
    """Gathers figures between the end of one step and the end of the next.

    `rewards`: the pools that score. `images` counts the images trained on since the run's first start, `seconds()` the time of
    all its starts.
    """

    def __init__(self, health: Health, rewards: Sequence[str] = ("reward",)) -> None:
        self.health, self.rewards = health, rewards
        self.step = 0
        self.images = 0
        self.quarantined = 0
        self.last: StepRecord | None = None
        self._earlier_seconds: float | None = None
        self._began = self._step_began = self._update_began = time.monotonic()
        self._paused_before = 0.0
        self._load_seconds = 0.0  # the longest that a worker took to load an adapter
        self._stage_seconds: dict[str, float] = defaultdict(float)
        self._pool_seconds: dict[str, float] = defaultdict(float)
        self._tasks: Counter[str] = Counter()
        self._train_seconds: dict[str, list[float]] = defaultdict(list)  # of each training task, by stage
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._cut_captions: set[tuple[int, int]] = set()
        self._adapters: dict[int, tuple[float, float]] = {}  # (effect, share) by policy version
        self._record: dict[str, Any] = {}
        self._scored_at: dict[GroupKey, float] = {}  # training groups: when their last chunk so far was scored
        self._queue_seconds: dict[str, list[float]] = defaultdict(list)
        self._spans: dict[Unit, dict[str, tuple[float, float]]] = {}  # of training chunks: stage -> begin and end

    def start_from(self, step: int, images: int, quarantined: int, seconds: float) -> None:
        """Goes on from these counts. The clock of this process goes on; a later start of it takes no time back."""
        self.step, self.images, self.quarantined = step, images, quarantined
        if self._earlier_seconds is None:
            self._earlier_seconds = seconds
        self.take_up()

    def take_up(self) -> None:
        """Goes on with nothing in flight."""
        self._scored_at.clear()
        self._spans.clear()
        self._begin_gathering(time.monotonic())

    def seconds(self) -> float:
        """Time spent on the run, earlier starts included."""
        return (self._earlier_seconds or 0.0) + time.monotonic() - self._began

    def drawn(self, reports: Mapping[Unit, DrawReport], seconds: float) -> None:
        """Chunks were drawn together in `seconds` as seen by the driver."""
        self._count("draw", "rollout", seconds)
        if any(unit.stream == TRAIN for unit in reports):
            self._train_seconds["draw"].append(seconds)
        now = time.monotonic()
        for unit, report in reports.items():
            self._load_seconds = max(self._load_seconds, report.load_seconds)
            if unit.stream == TRAIN:
                self._spans[unit] = {"draw": (now - seconds, now)}
                self._adapters[report.policy_version] = report.adapter_effect, report.adapter_share
                if report.cut:
                    self._cut_captions.add((unit.step, unit.group))

    def scored(self, unit: Unit, pool: str, scores: Scores, seconds: float) -> None:
        """A chunk was scored by a pool. With several, its span begins with the first and ends with the last."""
        self._count("score", pool, seconds)
        if unit.stream == TRAIN:
            self._train_seconds["score"].append(seconds)
            if len(self.rewards) > 1:
                self._train_seconds[pool].append(seconds)
            now = time.monotonic()
            begin = min(now - seconds, self._spans[unit].get("score", (now, now))[0])
            self._spans[unit]["score"] = (begin, now)
            self._queue_seconds["score"].append(max(0.0, now - self._spans[unit]["draw"][1] - seconds))
            self._scored_at[unit.key] = now
            for name, values in scores.metrics.items():
                self._metrics[f"{name_of(pool)}_{name}" if len(self.rewards) > 1 else name] += values

    def step_begins(
        self,
        train: Train,
        categories: Sequence[str],
        rewards_PK: np.ndarray,
        advantages_PK: np.ndarray,
        by_name: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """A step's groups go to the policy; P may be smaller than planned, or 0, when groups were quarantined.

        `by_name`: each reward [P, K] where there are several.
        """
        if train.groups:
            complete = max(self._scored_at.pop(key) for key in train.groups)
            self._queue_seconds["update"].append(time.monotonic() - complete)
        staleness = [train.step - 1 - version for version in train.versions]
        self._update_began = time.monotonic()
        by_category = defaultdict(list)
        for category, rewards_K in zip(categories, rewards_PK, strict=True):
            by_category[category].append(float(rewards_K.mean()))
        self._record = {
            "step": train.step,
            "policy_version": train.step,
            "staleness": staleness,
            "staleness_mean": _over(np.mean, np.array(staleness)),
            "staleness_max": max(staleness, default=None),
            "groups": len(train.groups),
            "images": int(rewards_PK.size),
            "reward_mean": _over(np.mean, rewards_PK),
            **({"rewards": {name: _over(np.mean, one_PK) for name, one_PK in by_name.items()}} if by_name else {}),
            "reward_std": _over(np.std, rewards_PK),
            "reward_std_in_group": _over(np.mean, rewards_PK.std(axis=1)) if rewards_PK.size else None,
            "equal_groups": int(sum(np.ptp(rewards_K) == 0 for rewards_K in rewards_PK)),
            "distinct_in_group": _over(np.mean, np.array([len(np.unique(rewards_K)) for rewards_K in rewards_PK])),
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
    ) -> StepRecord:
        """The record of the step that was trained; all counts are reset."""
        self.step = self._record["step"]
        now = time.monotonic()
        wall = now - self._step_began
        figures = dict(figures)
        self._count("update", "policy", figures.pop("seconds") + export_seconds)
        self.images += self._record["images"]
        busy = {
            pool: self._pool_seconds[pool] / (wall * max(1, pools[pool].wanted))
            for pool in ("rollout", *self.rewards, "policy")
        }
        effect, share = self._adapters.get(max(self._adapters, default=0), (None, None))
        record = {
            **{name: float(np.mean(values)) for name, values in self._metrics.items()},
            **self._record,
            **figures,
            "seconds": {"step": wall, "export": export_seconds, "load": self._load_seconds, **self._stage_seconds},
            "tasks": dict(self._tasks),
            "queue_s": {stage: float(np.mean(waits)) for stage, waits in self._queue_seconds.items()},
            "train_tasks": {stage: _spread(values) for stage, values in self._train_seconds.items()},
            "busy": {pool: min(1.0, share) for pool, share in busy.items()},
            "workers": {name: status.ready for name, status in pools.items()},
            "bytes_in_flight": progress.bytes_in_flight,
            "images_per_s": self._record["images"] / wall,
            "cut_captions": len(self._cut_captions),
            "adapter_effect": effect,
            "adapter_share": share,
            "paused_s": self.health.paused_s - self._paused_before,
            "quarantined": self.quarantined,
            "retries": dict(self.health.retries),
            "policy_restarts": self.health.gang_losses,
            "digest": digest,
        }
        spans = {unit: self._spans.pop(unit) for unit in list(self._spans) if unit.step <= self.step}
        if has_timeline(self.step):
            record["timeline"] = self._timeline(spans, now)
        self.last = StepRecord(**record)
        self._begin_gathering(now)
        return self.last

    def _timeline(self, spans: Mapping[Unit, Mapping[str, tuple[float, float]]], now: float) -> dict[str, Any]:
        """When the chunks of this step were drawn, scored and trained, in seconds since the first draw began."""
        whole = (unit for unit, stages in spans.items() if unit.step == self.step and "score" in stages)
        units = sorted(whole, key=lambda unit: (unit.group, unit.chunk))
        origin = min((spans[unit]["draw"][0] for unit in units), default=self._update_began)

        def since(span: tuple[float, float]) -> list[float]:
            return [round(edge - origin, 4) for edge in span]

        return {
            "chunks": [
                {"group": unit.group, "chunk": unit.chunk, **{name: since(span) for name, span in spans[unit].items()}}
                for unit in units[:TIMELINE_CHUNKS]
            ],
            "left_out": max(0, len(units) - TIMELINE_CHUNKS),
            "update": since((self._update_began, now)),
        }

    def _begin_gathering(self, now: float) -> None:
        self._step_began = now
        self._paused_before, self._load_seconds = self.health.paused_s, 0.0
        gathered = (
            self._stage_seconds,
            self._pool_seconds,
            self._tasks,
            self._train_seconds,
            self._queue_seconds,
            self._metrics,
            self._cut_captions,
            self._adapters,
        )
        for each in gathered:
            each.clear()

    def _count(self, stage: str, pool: str, seconds: float) -> None:
        self._stage_seconds[stage] += seconds
        self._pool_seconds[pool] += seconds
        self._tasks[stage] += 1


def has_timeline(step: int) -> bool:
    """Whether the record of this step says when its chunks were drawn, scored and trained: 1, 2, 3, 10, 30, 100, 300, ..."""
    return step == 2 or str(step).rstrip("0") in ("1", "3")


def _over(figure: Any, values: np.ndarray) -> float | None:
    return float(figure(values)) if values.size else None


def _spread(seconds: list[float]) -> dict[str, float]:
    """How many tasks, and the mean and the standard deviation of their seconds."""
    return {"tasks": len(seconds), "mean": float(np.mean(seconds)), "std": float(np.std(seconds))}
