"""The [reward] table: the keys of a pool, and those of the reward that its `type` names."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from actors.reward.options import RewardOptions
from actors.reward.registry import REWARDS
from pipelines.recipe.choices import Chosen
from pipelines.recipe.tables import Pool


class RewardTable(Pool):
    """A pool whose workers score. Its other keys are those of `kind`."""

    kind: ClassVar[type[RewardOptions]]

    @property
    def options(self) -> RewardOptions:
        """What a worker is told: all but the pool's keys."""
        return self.part(self.kind)


@cache
def table_of(options: type[RewardOptions]) -> type[RewardTable]:
    """The table of a reward. Raises ValueError for options that have a key of the pool."""
    if both := sorted(Pool.model_fields.keys() & options.model_fields.keys()):
        raise ValueError(
            f"{options.__module__}:{options.__name__} has a key {both[0]!r}, which the pool has: rename it"
        )
    names = {"kind": options, "__module__": __name__, "__doc__": options.__doc__}
    return type(options.__name__.replace("Options", "Table"), (options, RewardTable), names)


if TYPE_CHECKING:

    class Reward(RewardTable, RewardOptions):
        """What every table of a reward has."""
else:
    Reward = Annotated[Any, Chosen("reward", REWARDS, RewardOptions, "promptecho", table_of)]
