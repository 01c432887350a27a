"""Options of advantage weighted matching (docs/objectives/awm.md). Loads no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from actors.options import NotNegative, Positive
from actors.policy.objectives.options import MatchingOptions

Weighting = Literal["uniform", "t", "t2", "huber", "ghuber", "elbo"]


class AwmOptions(MatchingOptions):
    """Advantage weighted matching (docs/objectives/awm.md)."""

    objective: ClassVar[str] = "actors.policy.objectives.awm:Awm"
    terms: ClassVar[tuple[str, ...]] = ("matching_error", "kl_ema")

    type: Literal["awm"] = "awm"
    advantage_max: Positive = 1.0
    """What the largest advantage becomes."""
    weighting: Weighting = "ghuber"
    """How the matching error becomes a log-probability."""
    ghuber_power: Positive = 0.25
    """The power of `ghuber`."""
    clip_range: Positive = 1.0
    """How far the ratio may move before it is clipped."""
    ratio: Literal["exp_first", "sum_first"] = "exp_first"
    """A ratio per timestep, or one of the mean over timesteps."""
    kl_reference: NotNegative = 1e-3
    """The weight of the distance to the base model."""
    kl_ema: NotNegative = 1.0
    """The weight of the distance to a moving average of the adapter."""
    ema_decay_rate: NotNegative = 1e-3
    """The average keeps this share of itself in the first step, twice as much in the second, and so on."""
    ema_decay_max: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The most that it keeps."""

    @property
    def anchors(self) -> int:
        """Passes without gradient beside the trained one, at each point."""
        return super().anchors + int(self.kl_ema > 0)
