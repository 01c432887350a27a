"""Options of Flow-GRPO (docs/objectives/flow_grpo.md). Loads no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from actors.options import Count, NotNegative, Positive, Share
from actors.policy.objectives.options import ObjectiveOptions

Step = Literal["sde", "cps"]
Weights = Literal["equal", "noise", "even"]
Ratio = Literal["plain", "normalised"]


class FlowGrpoOptions(ObjectiveOptions):
    """Flow-GRPO (docs/objectives/flow_grpo.md)."""

    objective: ClassVar[str] = "actors.policy.objectives.flow_grpo:FlowGrpo"
    guides: ClassVar[bool] = True
    noisy: ClassVar[bool] = True
    points_key: ClassVar[str] = "window"

    type: Literal["flow_grpo"] = "flow_grpo"
    behaviour: Literal["current", "measured"] = "measured"
    """Who is the old policy: the learner's own of today, or, as measured by the worker, the one that drew."""
    timestep_fraction: Share = 0.99
    """No step after this share of the path is trained."""
    timestep_start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """No step before this share of the path is trained."""
    step: Step = "sde"
    """The kind of the steps that are drawn with noise."""
    noise_level: Share = 0.7
    """How much noise they add."""
    window: Count = 9
    """How many consecutive steps of a sample are drawn with noise and trained."""
    step_weights: Weights = "equal"
    """How much each of them counts."""
    ratio: Ratio = "plain"
    """The ratio of the log-probabilities as they are, or normalised over the steps."""
    clip_range: Positive = 1e-4
    """How far the ratio may move before it is clipped."""
    kl_reference: NotNegative = 0.04
    """The weight of the distance to the base model."""

    @property
    def points(self) -> int:
        """At how many points of its path a sample is trained."""
        return self.window

    @property
    def kept_latents(self) -> int:
        """The trained part of the path: the latents before each step and after the last."""
        return self.window + 1

    def trainable(self, steps: int) -> range:
        """The steps of a path that may be trained. The last never is: it ends at sigma 0, where its noise would stay in the image."""
        return range(int(steps * self.timestep_start), min(int(steps * self.timestep_fraction), steps - 1))

    def check(self, steps: int) -> None:
        """Raises ValueError if so many steps have no room for the window."""
        if self.window > (usable := len(self.trainable(steps))):
            raise ValueError(
                f"objective.window = {self.window} steps are to be trained, but rollout.steps = {steps}, "
                f"objective.timestep_start and objective.timestep_fraction leave {usable}: lower the first or raise "
                "rollout.steps"
            )
