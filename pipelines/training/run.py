"""What a run of `train` is made of: what lasts from start to end, and what is known from one start, or loss of the policy, to the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.tasks import Handle
from pipelines.data.prompts import PromptOrder
from pipelines.engine.messages import GroupKey
from pipelines.engine.tickets import Tickets
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.pictures import Pictures
from pipelines.training.books import Books
from pipelines.training.groups import Group
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.rewards import Rewards
from pipelines.training.shards import ShardWriter
from pipelines.training.showcase import Showcase
from pipelines.training.step_log import StepLog

Adapters = dict[int, tuple[str, Handle]]  # policy version -> (sha256, handle)


@dataclass
class Era:
    """adapters: that may yet draw; evaluated: the versions whose evaluation is recorded; groups: in flight."""

    adapters: Adapters
    evaluated: list[int]
    showcase: Showcase
    groups: dict[GroupKey, Group] = field(default_factory=dict)


class TrainRun:
    """The parts of one run, which its work and its updates share."""

    era: Era

    def __init__(
        self,
        recipe: Recipe,
        order: PromptOrder,
        heldout: HeldoutPlan,
        tickets: Tickets,
        folder: RunFolder,
        watchers: Watchers,
        samples_place: str = "",
    ) -> None:
        """samples_place: the folder or URL below which kept images go (empty: the run folder)."""
        self.recipe, self.order, self.heldout = recipe, order, heldout
        self.tickets, self.folder, self.watchers = tickets, folder, watchers
        self.rewards = Rewards(recipe.reward, recipe.combine, recipe.rollout.group_size)
        self.log = StepLog(tickets.health, self.rewards.pools)
        self.pictures = Pictures(folder)
        self.samples = ShardWriter(recipe, samples_place, folder, tickets, watchers.note)
        self.books = Books(recipe.run.seed, recipe.rollout, heldout, folder, self.log, watchers)

    def begin_era(self, adapters: Adapters, evaluated: Iterable[int]) -> None:
        """Goes on from these versions, with nothing in flight."""
        explaining = next((pool for pool, table in self.recipe.rewards.items() if table.explains), None)
        showcase = Showcase(self.heldout, self.folder, self.pictures, self.tickets, explaining)
        self.era = Era(dict(adapters), sorted(evaluated), showcase)
