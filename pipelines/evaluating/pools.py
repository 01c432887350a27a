"""Which workers `evaluate` needs: for each base those that draw with it, a pool for each reward, and the checker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from actors.diffusion.options import ImageModelOptions
from actors.messages import DrawTrial, ScoreTrial
from actors.reward.actor import CheckerActor, RewardActor
from actors.rollout.actor import ModelsActor
from actors.rollout.options import GeneratorSettings
from cluster.tasks import PoolSpec
from pipelines.evaluating.models import Model, length_of
from pipelines.evaluating.sheets import Sheets
from pipelines.recipe.programs.evaluate import CHECKER, EvaluateRecipe
from pipelines.recipe.reward import by_pool
from pipelines.recipe.tables import Pool
from pipelines.running.workers import pool_of, resources_of

ROLLOUT = "rollout"
MakePools = Callable[[Sheets, Path], list[PoolSpec]]
"""The pools of what is drawn; the path is that of the run folder, which holds the LoRAs."""


def draws_at(models: Sequence[Model]) -> dict[tuple[str, str | None], str]:
    """The pool that draws with a base, by base and family: `rollout`, or one for each, named as the first model on it."""
    first = {model.ground: model.name for model in reversed(models)}
    return {ground: f"{ROLLOUT}.{name}" if len(first) > 1 else ROLLOUT for ground, name in first.items()}


def elastic(sheets: Sheets) -> dict[str, Pool]:
    """The pools that may be scaled, with their tables."""
    recipe = sheets.recipe
    return {**dict.fromkeys(draws_at(sheets.models).values(), recipe.rollout), **recipe.judges}


def pool_specs(sheets: Sheets, run: Path) -> list[PoolSpec]:
    """The pools. Every worker tries when it starts what it will be asked for."""
    recipe = sheets.recipe
    height, width = recipe.heldout.sizes[0]
    trial = ScoreTrial(height, width, sheets.all[0].prompt)
    rewards = [
        pool_of(pool, RewardActor, recipe.run, table, {"options": table.options, "trial": trial, "pool": pool})
        for pool, table in by_pool(recipe.reward).items()
    ]
    return [*_drawing(sheets, run), *rewards, *_checking(recipe, trial)]


def _drawing(sheets: Sheets, run: Path) -> Iterator[PoolSpec]:
    """Workers of a base take turns at its models."""
    recipe, length = sheets.recipe, length_of(sheets.recipe, sheets.models)
    table, heldout = recipe.rollout, recipe.heldout
    for ground, name in draws_at(sheets.models).items():
        (base, family), of_base = ground, [model for model in sheets.models if model.ground == ground]
        key = f"models.{of_base[0].name}"
        trials = tuple(
            DrawTrial(base, height, width, (heldout.steps,), max(heldout.guidance_scales), key)
            for height, width in heldout.sizes
        )
        settings = GeneratorSettings(base, None, table.part(ImageModelOptions), length, family)
        loras = {model.sha256: model.lora(run) for model in of_base if model.files}
        yield pool_of(name, ModelsActor, recipe.run, table, {"settings": settings, "loras": loras, "trials": trials})


def _checking(recipe: EvaluateRecipe, trial: ScoreTrial) -> Iterator[PoolSpec]:
    if name := recipe.heldout.checker:
        table = recipe.checker
        yield PoolSpec(
            CHECKER,
            CheckerActor,
            {"name": name, "trial": trial},
            table.size,
            min_size=table.min,
            max_size=table.max,
            **resources_of(table),
        )
