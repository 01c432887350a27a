"""Options of DiffusionNFT (docs/objectives/nft.md). Loads no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from actors.options import Count, NotNegative, Positive, Share
from actors.policy.objectives.options import MatchingOptions, Timesteps


class NftOptions(MatchingOptions):
    """DiffusionNFT (docs/objectives/nft.md)."""

    objective: ClassVar[str] = "actors.policy.objectives.nft:Nft"
    terms: ClassVar[tuple[str, ...]] = ("loss_positive", "loss_negative", "old_distance")

    type: Literal["nft"] = "nft"
    timesteps: Timesteps = "discrete"
    """Where sigmas are drawn (docs/objectives/awm.md)."""
    timesteps_per_sample: Count = 9
    """At how many a sample is trained."""
    timestep_fraction: Share = 0.99
    """How much of the sampler's path is trained, from its start."""
    beta: Positive = 1.0
    """How far the positive and the negative velocity go from the old policy's."""
    kl_reference: NotNegative = 1e-4
    """The weight of the distance to the base model."""
    old_decay_flat: Annotated[int, Field(ge=0)] = 0
    """The old policy is the current one until this step."""
    old_decay_rate: NotNegative = 1e-3
    """From then on it keeps this share of itself, more with every step."""
    old_decay_max: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The most that it keeps."""

    @property
    def anchors(self) -> int:
        """Passes without gradient beside the trained one, at each point: the old policy's is one, unless it was measured."""
        return super().anchors + int(self.behaviour == "current")

    @property
    def kept_latents(self) -> int:
        """The velocities of the policy that drew."""
        return self.measured_points
