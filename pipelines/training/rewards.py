"""The rewards of groups: of each judge by the name of its pool, and the one of them all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.messages import Prompt, Scores
from actors.reward.combine import How, combined
from pipelines.recipe.errors import UserError
from pipelines.recipe.reward import Combine, by_pool, name_of
from pipelines.recipe.reward import Rewards as Tables
from pipelines.training.groups import Chunk, Group
from pipelines.training.heldout_plan import Judged


class Rewards:
    """Those of a recipe, in its order. `names` is empty with one [reward]: nothing needs to be told apart then."""

    def __init__(self, rewards: Tables, combine: Combine | None, group_size: int) -> None:
        self.pools = tuple(by_pool(rewards))
        self.several = combine is not None
        self.names = tuple(map(name_of, self.pools)) if self.several else ()
        self.weights = tuple(table.weight for table in rewards) if isinstance(rewards, tuple) else (1.0,)
        self.how: How = combine.how if combine else "weighted_sum"
        self.group_size = group_size

    def of_groups(self, groups: Sequence[Group]) -> np.ndarray:
        """rewards_NPK float64 [N, P, K] of each judge, for groups of a step."""
        rewards = [[group.rewards_K(pool) for group in groups] for pool in self.pools]
        return np.reshape(np.array(rewards, dtype=np.float64), (len(self.pools), len(groups), self.group_size))

    def combined(self, rewards_NPK: np.ndarray) -> np.ndarray:
        """What is trained on, float64 [P, K]. Raises UserError for rewards that have no product."""
        if not self.several:
            return rewards_NPK[0]
        return self._combined(rewards_NPK, self.how)

    def problem(self, pool: str, scores: Scores, prompt: Prompt) -> str:
        """Why the scores of a chunk cannot be used; empty if they can."""
        which = pool if self.several else "a reward"
        strange = (reward for reward in scores.rewards_K if not math.isfinite(reward))
        return next((f"{which} of prompt {prompt.id} is {reward}" for reward in strange), "")

    def judged(self, prompt: Prompt, chunk: Chunk) -> Judged:
        """A held-out group that all have scored."""
        return Judged(prompt, self.heldout(chunk.scores), chunk.checks, self.by_name(chunk.scores))

    def heldout(self, scores: Mapping[str, Scores]) -> tuple[float, ...]:
        """The reward of each held-out image. A weighted sum where training compares within a group: evaluations compare across them."""
        if not self.several:
            return scores[self.pools[0]].rewards_K
        rewards_NPK = np.array([[scores[pool].rewards_K] for pool in self.pools])
        how: How = "product" if self.how == "product" else "weighted_sum"
        return tuple(map(float, self._combined(rewards_NPK, how)[0]))

    def by_name(self, scores: Mapping[str, Scores]) -> dict[str, tuple[float, ...]]:
        """Each reward of a chunk's images; none with one [reward]."""
        return {name: scores[pool].rewards_K for name, pool in zip(self.names, self.pools, strict=False)}

    def exactly(self, group: Group) -> list[Any]:
        """What the digest hashes of a group's rewards: each with its name, if there are several."""
        if not self.several:
            return list(map(float, group.rewards_K(self.pools[0])))
        pairs = zip(self.names, self.pools, strict=True)
        return [[name, list(map(float, group.rewards_K(pool)))] for name, pool in pairs]

    def _combined(self, rewards_NPK: np.ndarray, how: How) -> np.ndarray:
        try:
            return combined(rewards_NPK, self.weights, how)
        except ValueError as error:
            raise UserError(str(error)) from error
