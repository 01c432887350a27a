"""What every objective's options have, those that match flows at random sigmas as well, and what others must know of an objective.

Recipe, worker and doctor read the same class; it loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from actors.options import Count, Positive, Share, Table

Timesteps = Literal["uniform", "logit_normal", "discrete", "discrete_wo_init", "discrete_with_init", "subset"]
OF_THE_SAMPLER = ("discrete", "discrete_wo_init", "discrete_with_init", "subset")  # take some of its own sigmas


class ObjectiveOptions(Table):
    """The keys of every objective, and facts about it. Each class also has a default of `kl_reference`."""

    objective: ClassVar[str]
    """The class "module:name" that is made with these options."""
    guides: ClassVar[bool] = False
    """Whether the loss is of the velocity that images are drawn with, guidance included."""
    noisy: ClassVar[bool] = False
    """Whether images of a group differ though they start from the same noise."""
    points_key: ClassVar[str]
    """The key of `points`."""
    terms: ClassVar[tuple[str, ...]] = ()
    """Terms of its loss, beside `loss_policy` and `kl_reference`."""

    if TYPE_CHECKING:
        kl_reference: float

    type: str
    """Which objective: a name of the registry, or `package.module:Name`."""

    advantage_std: Literal["none", "group", "global"] = "global"
    """By what a group's rewards are divided after their mean is taken off: nothing, the group's deviation, the step's."""
    advantage_clip: Positive = 5.0
    """Advantages are clamped to +- this."""
    behaviour: Literal["current", "measured"] = "current"
    """Who is the old policy: the learner's own of today, or, as measured by the worker, the one that drew."""
    timestep_fraction: Share = 0.9
    """How much of the sampler's path is trained, from its start."""

    @property
    def points(self) -> int:
        """At how many points of its path a sample is trained."""
        raise NotImplementedError

    @property
    def anchors(self) -> int:
        """Passes without gradient beside the trained one, at each point."""
        return int(self.kl_reference > 0)

    @property
    def measured_points(self) -> int:
        """Velocities of each sample that a worker computes beside those that draw it."""
        return 0

    @property
    def kept_latents(self) -> int:
        """How many more latents travel with an image than its own."""
        return 0

    def check(self, steps: int) -> None:
        """Raises ValueError if a sampler of so many steps has too few."""


class MatchingOptions(ObjectiveOptions):
    """The keys of objectives that match flows at random sigmas: where these lie."""

    points_key: ClassVar[str] = "timesteps_per_sample"

    timesteps: Timesteps = "discrete_wo_init"
    """Where sigmas are drawn (docs/objectives/awm.md)."""
    timesteps_per_sample: Count = 6
    """At how many a sample is trained."""
    timestep_shift: Positive = 3.0
    """The resolution shift of sigmas that are not the sampler's own."""
    timestep_min: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The lowest of `uniform`, before the shift."""

    @property
    def points(self) -> int:
        """At how many points of its path a sample is trained."""
        return self.timesteps_per_sample

    @property
    def measured_points(self) -> int:
        """Those at which it is trained."""
        return self.points if self.behaviour == "measured" else 0

    def check(self, steps: int) -> None:
        """Raises ValueError if a sampler of so many steps has too few of its own sigmas."""
        usable = int(steps * self.timestep_fraction)
        usable = {"discrete_wo_init": usable - 1, "subset": steps}.get(self.timesteps, usable)
        if self.timesteps in OF_THE_SAMPLER and self.timesteps_per_sample > usable:
            raise ValueError(
                f"objective.timesteps_per_sample = {self.timesteps_per_sample} needs as many sampling steps, but "
                f'rollout.steps and timestep_fraction leave {usable} for objective.timesteps = "{self.timesteps}": '
                "lower the first or raise rollout.steps"
            )
