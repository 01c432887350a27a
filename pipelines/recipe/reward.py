"""The [reward] table: the keys of a pool, and those of the reward that its `type` names."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from actors.models.kinds import Kind
from actors.reward.options import DualEncoderOptions, RewardOptions, VlmOptions
from actors.reward.registry import REWARDS
from pipelines.recipe.choices import Chosen
from pipelines.recipe.tables import Pool

JUDGED_BY: dict[Kind, type[RewardOptions]] = {"vlm": VlmOptions, "dual_encoder": DualEncoderOptions}


class RewardTable(Pool):
    """A pool whose workers score. Its other keys are those of `kind`."""

    kind: ClassVar[type[RewardOptions]]

    @property
    def options(self) -> RewardOptions:
        """What a worker is told: all but the pool's keys."""
        return self.part(self.kind)


@cache
def table_of(options: type[RewardOptions]) -> type[RewardTable]:
    """The table of a reward. Raises ValueError for options of the user's own that others could not read."""
    if problem := _problem_of(options):
        raise ValueError(f"{options.__module__}:{options.__name__} {problem}")
    names = {"kind": options, "__module__": __name__, "__doc__": options.__doc__}
    return type(options.__name__.replace("Options", "Table"), (options, RewardTable), names)


def _problem_of(options: type[RewardOptions]) -> str:
    """What pool, doctor or worker could not make of options; empty if there is nothing."""
    for key in options.model_fields:
        if key in Pool.model_fields:
            return f"has a key {key!r}, which the pool has: rename it"
        if key == "kind" or hasattr(RewardTable, key) or hasattr(RewardOptions, key):
            return f"has a key {key!r}, which means something else of every reward: rename it"
    for key, kind in options.models.items():
        base = JUDGED_BY.get(kind)
        if base is None or not issubclass(options, base):
            known = " or ".join(f"{one.__name__} ({name!r})" for name, one in JUDGED_BY.items())
            return f"says that {key!r} names a {kind!r}: derive it from {known}"
    return ""


if TYPE_CHECKING:

    class Reward(RewardTable, RewardOptions):
        """What every table of a reward has."""
else:
    Reward = Annotated[Any, Chosen("reward", REWARDS, RewardOptions, "promptecho", table_of)]
