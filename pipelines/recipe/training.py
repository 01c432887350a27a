"""The recipe of `train`: its tables, and what must hold across them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from actors.options import Change, Table
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.registry import OBJECTIVES
from pipelines.recipe.reward import Combine, Rewards, by_pool
from pipelines.recipe.tables import (
    Cluster,
    Data,
    Heldout,
    LoopTable,
    Monitor,
    Objective,
    Policy,
    Rollout,
    Run,
    Samples,
)

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward


class Recipe(Table):
    """One run, whole."""

    run: Run = Run()
    loop: LoopTable
    data: Data
    rollout: Rollout
    reward: Rewards
    combine: Combine | None = None
    policy: Policy
    objective: Objective = AwmOptions()
    heldout: Annotated[Heldout, Change.EVALUATED] = Heldout()
    samples: Annotated[Samples, Change.FREE] = Samples()
    monitor: Annotated[Monitor, Change.FREE] = Monitor()
    cluster: Annotated[Cluster, Change.FREE] = Cluster()

    @model_validator(mode="before")
    @classmethod
    def combine_several(cls, given: Any) -> Any:
        """Several rewards are combined, whether the recipe says how or not."""
        several = isinstance(given, dict) and isinstance(given.get("reward"), tuple)
        return {"combine": {}, **given} if several else given

    @property
    def rewards(self) -> dict[str, Reward]:
        """The tables of the rewards by the names of their pools: `reward`, or `reward.NAME` of each of several."""
        return by_pool(self.reward)

    @property
    def exact(self) -> bool:
        """Whether the run promises to give the same bits again."""
        return self.loop.order == "strict" and self.run.deterministic

    @model_validator(mode="after")
    def check_across_tables(self) -> Recipe:
        """Raises ValueError for combinations that cannot run."""
        if self.rollout.group_size % self.rollout.images_per_score:
            raise ValueError(
                f"rollout.chunk = {self.rollout.images_per_score} does not divide rollout.group_size = {self.rollout.group_size}: "
                f"choose one of {[n for n in range(1, self.rollout.group_size + 1) if self.rollout.group_size % n == 0]}"
            )
        self._check_groups_per_task()
        if self.combine and not isinstance(self.reward, tuple):
            raise ValueError("combine: it is for several rewards, [[reward]] each; leave it out with one [reward]")
        self._check_weights()
        for name, pool in {"rollout": self.rollout, **self.rewards}.items():
            if not pool.min <= pool.size <= (pool.max or pool.size):
                raise ValueError(
                    f"{name}.size = {pool.size} lies outside of {name}.min = {pool.min} and {name}.max = {pool.max}: "
                    "a pool begins with a size between them"
                )
        self._check_ranks()
        wanted = sum(self.data.mix.values())
        if self.data.mix and wanted != self.rollout.prompts_per_step:
            raise ValueError(
                f"data.mix takes {wanted} prompts a step but rollout.prompts_per_step = {self.rollout.prompts_per_step}: make them equal"
            )
        self._check_timesteps()
        self._check_exact()
        return self

    def _check_weights(self) -> None:
        tables = self.reward if isinstance(self.reward, tuple) else ()
        counting = [table for table in tables if table.weight]
        if tables and not counting:
            raise ValueError("reward.weight is 0 for every [[reward]]: nothing would be trained; give one a weight")
        if self.combine and self.combine.how == "product":
            for table in counting:
                if table.options.below_zero:
                    raise ValueError(
                        f'combine.how = "product", but the scores of [[reward]] {table.name} are below 0: take "weighted_sum" or '
                        '"normalised", or a reward above 0, such as promptecho with transform = "exp"'
                    )

    def _check_exact(self) -> None:
        for name, table in (("rollout", self.rollout), ("policy", self.policy)):
            if table.compile and self.exact:
                raise ValueError(
                    f'{name}.compile = true with loop.order = "strict" and run.deterministic = true: what torch.compile makes depends on '
                    "the shapes that a process met before, so that the run could not be repeated to the bit; leave compile out, or set "
                    "run.deterministic = false"
                )

    def _check_groups_per_task(self) -> None:
        together, prompts, chunk = self.rollout.groups_per_task, self.rollout.prompts_per_step, self.rollout.chunk
        if together > 1 and chunk and chunk < self.rollout.group_size:
            raise ValueError(
                f"rollout.groups_per_task = {together} draws whole groups together, but rollout.chunk = {chunk} draws parts of a "
                f"group of {self.rollout.group_size}: leave rollout.chunk out, or set rollout.groups_per_task = 1"
            )
        if together > prompts:
            raise ValueError(
                f"rollout.groups_per_task = {together}, but a step has only rollout.prompts_per_step = {prompts} groups: "
                f"choose from 1 to {prompts}"
            )

    def _check_timesteps(self) -> None:
        if self.rollout.noise == "group" and not self.objective.noisy:
            raise ValueError(
                f'rollout.noise = "group" with objective.type = "{self.objective.type}": all images of a group would be the same, '
                f"for only {' and '.join(name for name, one in OBJECTIVES.items() if one.noisy)} adds noise on the way; "
                'use rollout.noise = "own"'
            )
        self.objective.check(self.rollout.steps)

    def _check_ranks(self) -> None:
        ranks, tasks = self.policy.ranks, self.rollout.chunks_per_step
        if self.policy.zero_stage == 0 and ranks > 1:
            raise ValueError(
                f"policy.ranks = {ranks} with policy.zero_stage = 0: stage 0 is one rank of plain torch; choose stage 1, 2 or 3"
            )
        if ranks > tasks:
            raise ValueError(
                f"policy.ranks = {ranks}, but a step has only {tasks} chunks to share among them: "
                "raise rollout.prompts_per_step or lower rollout.chunk"
            )
        if self.cluster.heartbeat_timeout_s <= self.cluster.heartbeat_s:
            raise ValueError(
                f"cluster.heartbeat_timeout_s = {self.cluster.heartbeat_timeout_s} must be above "
                f"cluster.heartbeat_s = {self.cluster.heartbeat_s}"
            )
