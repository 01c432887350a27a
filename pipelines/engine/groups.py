"""A group in flight as the loop sees it: how far each of its chunks is, how large, and how often it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipelines.engine.messages import Failed, GroupKey, LoopPlan


class Stage(Enum):
    """How far a chunk is."""

    TO_DRAW, DRAWING, TO_SCORE, SCORING, SCORED, DROPPED = range(6)


@dataclass(slots=True)
class Failures:
    """How a chunk failed so far: on its own input, through the loss of a worker or payload, and on which workers."""

    own: int = 0
    lost: int = 0
    workers: frozenset[str] = frozenset()

    def add(self, event: Failed) -> None:
        """Once more. A worker is not to blame for a payload that is lost."""
        if event.cause == "raised":
            self.own += 1
        else:
            self.lost += 1
        if event.cause != "object_lost":
            self.workers |= {event.worker}

    @property
    def tries(self) -> int:
        """How often it was tried in vain."""
        return self.own + self.lost

    def too_many(self, plan: LoopPlan) -> bool:
        """Whether it is not to be tried again."""
        return self.own > plan.retries or self.lost > plan.lost_retries


@dataclass(slots=True)
class OpenGroup:
    """A group that was begun and is not released. stages, bytes: by chunk; complete: all are scored.

    together: the groups that are drawn in one batch with it, itself among them, in order.
    """

    key: GroupKey
    together: tuple[GroupKey, ...]
    version: int
    stages: list[Stage]
    bytes: list[int]
    failures: dict[int, Failures] = field(default_factory=dict)
    complete: bool = False
    quarantined: bool = False

    @property
    def busy(self) -> bool:
        """Whether a worker has one of its chunks."""
        return Stage.DRAWING in self.stages or Stage.SCORING in self.stages
