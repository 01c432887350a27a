"""How long the tasks of a run took, from its folder, and what that says of other sizes of its recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.planning.times import Duration, Times, exchange_seconds, value_of
from pipelines.preflight.memory.counts import image_bytes, samples_of_rank
from pipelines.preflight.memory.models import Models
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import METRICS, RECIPE, RunFolder
from pipelines.run_folder.location import brought, resolved
from pipelines.run_folder.records import StepRecord

LEAST_STEPS = 5  # of a run that is measured, without those that fill the pipeline
SAME = (
    "policy.model", "policy.family", "policy.dtype", "policy.num_gpus", "policy.zero_stage", "policy.compile",
    "policy.activation_checkpointing", "policy.lora_rank", "policy.lora_targets", "rollout.height", "rollout.width",
    "rollout.guidance_scale", "rollout.dtype", "rollout.num_gpus", "rollout.compile", "objective.type", "objective.behaviour",
)  # fmt: skip
SAME_OF_REWARD = ("type", "model", "family", "dtype", "num_gpus", "image_pixels")
"""Keys, and those of every reward, in which a recipe may not differ from a run whose times it takes: times are not carried over."""


@dataclass(frozen=True)
class Run:
    """What a run's folder says of its steady steps: the durations of its tasks, and the images per second that it reached."""

    recipe: Recipe
    draw: Duration
    score: dict[str, Duration]
    update: Duration
    images_per_s: float
    steps: int


class Measured:
    """The times of a run, carried over in proportion: a draw to images times sampling steps, a score to images, an update to points."""

    def __init__(self, run: Run, models: Models, per_node: int) -> None:
        self.run, self.models, self.per_node = run, models, per_node
        self.note = (
            f"Measured in {run.steps} steps of a run. Carried over in proportion: a draw to images times sampling steps, a score to "
            "images, an update to the samples of a rank times their points; with more ranks, the exchange of gradients is added."
        )

    def times(self, recipe: Recipe) -> Times:
        """See `Source`. Raises UserError for a recipe that differs in one of SAME."""
        run = self.run
        check_same(run.recipe, recipe)
        rollout, before = recipe.rollout, run.recipe.rollout
        exchanged = exchange_seconds(before, run.recipe.policy, self.models, self.per_node)
        work = max(0.0, run.update.seconds - exchanged) * _points(recipe) / _points(run.recipe)
        update = work + exchange_seconds(rollout, recipe.policy, self.models, self.per_node)
        drawn = rollout.images_per_draw * rollout.steps / (before.images_per_draw * before.steps)
        images, of_run = rollout.images_per_score, before.images_per_score
        shape = self.models.image.shape(recipe.policy.max_sequence_length)
        return Times(
            Duration(run.draw.seconds * drawn, run.draw.jitter),
            {pool: Duration(score.seconds * images / of_run, score.jitter) for pool, score in run.score.items()},
            Duration(update, run.update.jitter),
            images * image_bytes(rollout, recipe.objective, shape),
        )


def read_run(place: str) -> Run:
    """The steady steps of a run, from its folder on this disk or at a URL.

    Left out are the first and the last ones, and those that shared their workers with an evaluation. Raises UserError for a
    folder that cannot be read or has no run, or with too few such steps.
    """
    place = resolved(place, "--measured")
    with brought(place, "--measured", lambda name: name in (RECIPE, METRICS)) as folder:
        if not RunFolder.holds_run(folder):
            raise UserError(
                f"--measured {place}: no run lies there; give a run folder, which holds {RECIPE} and {METRICS}"
            )
        run = RunFolder(folder)
        run.read_recipe()  # says what is damaged, where it is
        recipe, records = load_recipe(folder / RECIPE), run.read_metrics()
    last = recipe.loop.steps - recipe.loop.staleness  # after it there is less and less to draw
    inner = [record for record in records[recipe.loop.staleness + 2 :] if record.step <= last]
    steady = [record for record in inner if _only_trained(record)]
    if len(steady) < LEAST_STEPS:
        raise UserError(
            f"--measured {place}: {len(steady)} of its {len(records)} steps can be measured, at least {LEAST_STEPS} are needed: those "
            "that fill the pipeline or drain it, and those that drew held-out images, do not count. Run more steps, or raise heldout.every"
        )
    stages = {pool: pool if recipe.combine else "score" for pool in recipe.rewards}
    if unknown := [pool for pool, stage in stages.items() if any(stage not in each.train_tasks for each in steady)]:
        raise UserError(
            f"--measured {place}: its {METRICS} does not say how long {unknown[0]} took to score; measure a run of this version"
        )
    updates = [record.seconds["update"] for record in steady]
    seconds = sum(record.seconds["step"] for record in steady)
    return Run(
        recipe,
        _of_tasks(steady, "draw"),
        {pool: _of_tasks(steady, stage) for pool, stage in stages.items()},
        Duration(_mean(updates), _std(updates) / _mean(updates)),
        sum(record.images for record in steady) / seconds,
        len(steady),
    )


def check_same(run: Recipe, recipe: Recipe) -> None:
    """Raises UserError if times of the run say nothing of the recipe."""
    if run.rewards.keys() != recipe.rewards.keys():
        was, wanted = (", ".join(each.rewards) for each in (run, recipe))
        raise UserError(
            f"the run was measured with the pools {was}, but the recipe has {wanted}: times do not carry over; measure a run of this "
            "recipe, or plan without --measured"
        )
    for key in (*SAME, *(f"{pool}.{name}" for pool in recipe.rewards for name in SAME_OF_REWARD)):
        was, wanted = (value_of(each, key) for each in (run, recipe))
        if was != wanted:
            raise UserError(
                f"the run was measured with {key} = {was!r}, but the recipe has {wanted!r}: times do not carry over; measure a run of "
                "this recipe, or plan without --measured"
            )


def _only_trained(record: StepRecord) -> bool:
    trained = record.train_tasks
    return {"draw", "score"} <= trained.keys() and all(
        record.tasks[stage] == trained[stage].tasks for stage in ("draw", "score")
    )


def _of_tasks(records: Sequence[StepRecord], stage: str) -> Duration:
    """The mean over all tasks, and how tasks differ within a step: what changes from step to step is no jitter."""
    parts = [record.train_tasks[stage] for record in records]
    count = sum(part.tasks for part in parts)
    mean = sum(part.tasks * part.mean for part in parts) / count
    variance = sum(part.tasks * part.std**2 for part in parts) / count
    return Duration(mean, math.sqrt(variance) / mean)


def _points(recipe: Recipe) -> int:
    return samples_of_rank(recipe.rollout, recipe.policy.ranks) * recipe.objective.points


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _std(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) ** 2 for value in values]))
