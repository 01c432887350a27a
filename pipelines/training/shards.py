"""Training images that are kept on request (`samples.every`): from the handles of a step's images to a file, beside the training.

A worker packs them, the storage worker writes the file. The loop waits only when the images of one step are still under way and
those of the next are due. What cannot be kept is said, and the run goes on; nothing of what is trained depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from actors.messages import KeptChunk
from actors.shards.actor import ShardsActor
from cluster.storage.documents import Storage
from cluster.tasks import Failure, Handle, Outcome
from pipelines.engine.messages import Unit
from pipelines.engine.tickets import Take, Tickets
from pipelines.recipe.tables import Rollout
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import Samples, SamplesFailed
from pipelines.run_folder.folder import RunFolder
from pipelines.training.groups import TRAIN, Group, noise_seeds


class ShardWriter:
    """Shards lie in `place`/samples, a folder or a URL (empty: the run folder)."""

    def __init__(
        self, recipe: Recipe, place: str, folder: RunFolder, tickets: Tickets, note: Callable[[str], None]
    ) -> None:
        self.recipe, self.folder, self.tickets, self.note = recipe, folder, tickets, note
        self.place = place or str(folder.path.absolute())
        self._under_way: dict[int, int] = {}  # step -> images

    @property
    def pending(self) -> bool:
        """Whether a step's images are under way. No checkpoint counts a step whose images are not there, or given up."""
        return bool(self._under_way)

    def hold_up(self, checkpoint_overdue: bool) -> bool:
        """Whether nothing new may begin: images of two steps are under way, or a checkpoint waits for those of one."""
        return len(self._under_way) > 1 or (self.pending and checkpoint_overdue)

    def wants(self, unit: Unit) -> bool:
        """Whether the images of a chunk are kept until it is trained. In ready order it is not known yet in which step that is."""
        every = self.recipe.samples.every
        if unit.stream != TRAIN or not every:
            return False
        return self.recipe.loop.order == "ready" or unit.step % every == 0

    def write(self, step: int, groups: Sequence[Group], rewards_PK: np.ndarray, advantages_PK: np.ndarray) -> None:
        """Keeps the images of the groups that a step trains on, if it is one of those asked for."""
        every, number = self.recipe.samples.every, self.recipe.samples.groups
        if not every or step % every or not groups or step in self._under_way:
            return
        rows = zip(groups[:number], rewards_PK, advantages_PK, strict=False)
        kept = [piece for row in rows for piece in _kept(self.recipe.run.seed, self.recipe.rollout, step, *row)]
        self._under_way[step] = sum(len(chunk.samples) for chunk, _ in kept)
        chunks, images = tuple(chunk for chunk, _ in kept), tuple(images for _, images in kept)
        self._call("samples", ShardsActor.pack, (chunks, *images), partial(self._packed, step), returns=2)

    def _packed(self, step: int, outcome: Outcome) -> None:
        """A step's images are one payload, which is written."""
        if outcome.failure:
            return self._give_up(step, outcome.failure)
        args = (self._path(step), outcome.payloads[0])
        self._call("storage", Storage.write_file, args, partial(self._written, step))

    def _written(self, step: int, outcome: Outcome) -> None:
        """A step's images are a file."""
        if outcome.failure:
            return self._give_up(step, outcome.failure)
        figures = {"bytes": outcome.value["bytes"], "write_s": round(outcome.value["seconds"], 4)}
        images = self._under_way.pop(step)
        self.folder.event(Samples(step=step, path=self._path(step), images=images, **figures))

    def _call(self, pool: str, method: Callable[..., Any], args: tuple, then: Take, **options: Any) -> None:
        retries = self.recipe.loop.lost_retries
        self.tickets.call(pool, method, args, then, retries=retries, survives_era=True, **options)

    def _give_up(self, step: int, failure: Failure) -> None:
        del self._under_way[step]
        self.folder.event(SamplesFailed(step=step, cause=failure.cause, message=failure.message))
        reason = failure.message.strip().splitlines()[-1]
        self.note(f"warning: the images of step {step} could not be kept: {reason}; the run goes on without them")

    def _path(self, step: int) -> str:
        return f"{self.place}/samples/step-{step:06d}.parquet"


def _kept(
    seed: int, rollout: Rollout, step: int, group: Group, rewards_K: np.ndarray, advantages_K: np.ndarray
) -> Iterator[tuple[KeptChunk, Handle]]:
    """What is kept of each chunk of a group, with the handle of its images."""
    prompt = group.drawn_prompt()
    for number, chunk in sorted(group.chunks.items()):
        samples = range(number * rollout.images_per_score, (number + 1) * rollout.images_per_score)
        kept = KeptChunk(
            step=step,
            policy_version=group.version,
            group=group.key.group,
            prompt_id=prompt.id,
            category=prompt.category,
            caption=prompt.caption,
            samples=tuple(samples),
            noise_seeds=noise_seeds(seed, rollout.noise, group, samples),
            rewards_K=tuple(float(rewards_K[sample]) for sample in samples),
            advantages_K=tuple(float(advantages_K[sample]) for sample in samples),
        )
        yield kept, chunk.images
