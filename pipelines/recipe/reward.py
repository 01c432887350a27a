"""The [reward] table, or the [[reward]] tables: the keys of a pool, and those of the reward that its `type` names."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from actors.models.kinds import Kind
from actors.options import Table
from actors.reward.combine import How
from actors.reward.kinds.registry import REWARDS
from actors.reward.options import DualEncoderOptions, RewardOptions, VlmOptions
from pipelines.recipe.choices import Chosen
from pipelines.recipe.tables import Pool

JUDGED_BY: dict[Kind, type[RewardOptions]] = {"vlm": VlmOptions, "dual_encoder": DualEncoderOptions}
POOL = "reward"  # of the one reward; of several, NAME's is reward.NAME
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class RewardTable(Pool):
    """A pool whose workers score. Its other keys are those of `kind`."""

    kind: ClassVar[type[RewardOptions]]

    @property
    def options(self) -> RewardOptions:
        """What a worker gets: all but the pool's keys."""
        return self.part(self.kind)


def _word(name: str) -> str:
    if not WORD.fullmatch(name):
        raise PydanticCustomError("word", "a word is expected: letters, digits and _, a letter first")
    return name


class NamedTable(RewardTable):
    """One of several rewards."""

    name: Annotated[str, AfterValidator(_word)]
    """What metrics call it; its pool is reward.NAME."""
    weight: float = 1.0
    """In what is trained on ([combine]); 0: it is only watched."""


class Combine(Table):
    """How several rewards become the one that is trained on (docs/rewards/README.md)."""

    how: How = "weighted_sum"
    """`normalised`: each within its group, before the weighted sum."""


@cache
def table_of(options: type[RewardOptions], base: type[RewardTable] = RewardTable) -> type[RewardTable]:
    """The table of a reward. Raises ValueError for options of the user's own that others could not read."""
    if problem := _problem_of(options, base):
        raise ValueError(f"{options.__module__}:{options.__name__} {problem}")
    names = {"kind": options, "__module__": __name__, "__doc__": options.__doc__}
    return type(options.__name__.replace("Options", base.__name__.removeprefix("Reward")), (options, base), names)


def named_table_of(options: type[RewardOptions]) -> type[RewardTable]:
    """The table of one of several rewards. Raises ValueError as `table_of`."""
    return table_of(options, NamedTable)


def _problem_of(options: type[RewardOptions], base: type[RewardTable]) -> str:
    """What pool, doctor or worker could not make of options; empty if there is nothing."""
    for key in options.model_fields:
        if key in base.model_fields:
            return f"has a key {key!r}, which the pool has: rename it"
        if key == "kind" or hasattr(base, key) or hasattr(RewardOptions, key):
            return f"has a key {key!r}, which means something else of every reward: rename it"
    for key, kind in options.models.items():
        asked = JUDGED_BY.get(kind)
        if asked is None or not issubclass(options, asked):
            known = " or ".join(f"{one.__name__} ({name!r})" for name, one in JUDGED_BY.items())
            return f"says that {key!r} names a {kind!r}: derive it from {known}"
    return ""


def _checked(rewards: Rewards) -> Rewards:
    """Raises ValueError if two rewards have one name, or if there is none."""
    if rewards == ():
        raise ValueError("reward = []: at least one reward is expected, [reward] or [[reward]]")
    names = [table.name for table in rewards] if isinstance(rewards, tuple) else []
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f'reward.name = "{twice[0]}" is there twice: give each [[reward]] a name of its own')
    return rewards


def apart_from(columns: Collection[str]) -> AfterValidator:
    """Of a program that writes Parquet with a column for each reward: no reward is named as another column is."""

    def checked(rewards: Rewards) -> Rewards:
        if clash := [name for name in names_by_pool(rewards).values() if name in columns]:
            taken = ", ".join(columns)
            raise ValueError(f'reward.name = "{clash[0]}": another column has that name; choose none of {taken}')
        return rewards

    return AfterValidator(checked)


if TYPE_CHECKING:

    class Reward(RewardTable, RewardOptions):
        """What every table of a reward has."""

    class NamedReward(NamedTable, Reward):
        """What every table of one of several rewards has."""

    Rewards = Reward | tuple[NamedReward, ...]
else:
    Rewards = Annotated[
        Any,
        Chosen(POOL, REWARDS, RewardOptions, "promptecho", table_of, several=named_table_of),
        AfterValidator(_checked),
    ]


def by_pool(rewards: Rewards) -> dict[str, Reward]:
    """The tables by the names of their pools, in the recipe's order, which decides the bits of a sum."""
    return {f"{POOL}.{table.name}": table for table in rewards} if isinstance(rewards, tuple) else {POOL: rewards}


def names_by_pool(rewards: Rewards) -> dict[str, str]:
    """What a column of each reward is called: of the only one its type, or the class's where a package brings it along."""
    if isinstance(rewards, tuple):
        return {pool: table.name for pool, table in zip(by_pool(rewards), rewards, strict=True)}
    return {POOL: rewards.type.rpartition(":")[2]}


def name_of(pool: str) -> str:
    """What metrics call the reward of a pool."""
    return pool.removeprefix(f"{POOL}.")
