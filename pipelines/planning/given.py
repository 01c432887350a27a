"""What a recipe of any program names, looked at before it costs anything: its mistakes, and the models that its workers read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.models.kinds import NamedModel
from cluster.tasks import PoolSpec
from pipelines.captioning.pools import pool_specs as captioning_pools
from pipelines.data.images import find_images
from pipelines.evaluating.models import open_models
from pipelines.evaluating.pools import draws_at
from pipelines.evaluating.pools import pool_specs as evaluating_pools
from pipelines.evaluating.sheets import Sheets, prompts_of
from pipelines.preflight.checks import check_named
from pipelines.preflight.verdicts import cuda_without_gpus
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import parse_recipe, tables_of
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.evaluate import EvaluateRecipe
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.programs.writer import WRITER
from pipelines.recipe.reward import RewardTable, by_pool
from pipelines.recipe.training import Recipe
from pipelines.scoring.pools import pool_specs as scoring_pools
from pipelines.scoring.rows import rows_of

Read = dict[str, tuple[NamedModel, ...]]


@dataclass(frozen=True)
class Given:
    """Of a program that trains nothing. said: what it would do; read: the models that each pool's workers load; pools: the workers."""

    program: str
    said: str
    read: Read
    pools: Sequence[PoolSpec]


def load_any(path: Path, overrides: Iterable[str] = ()) -> Recipe | MapRecipe:
    """A recipe of the program that its tables tell: as `load_recipe`."""
    source, tables = tables_of(path, overrides)
    return parse_recipe(tables, source, _kind_of(tables))


def given_by(recipe: MapRecipe) -> Given:
    """What it names, looked at as its program does. Raises UserError for what no run could begin with."""
    match recipe:
        case ScoreRecipe():
            return _score(recipe)
        case EvaluateRecipe():
            return _evaluate(recipe)
        case CaptionRecipe():
            return _caption(recipe)
    raise TypeError(f"{type(recipe).__name__} is of no program")


def _kind_of(tables: Mapping[str, Any]) -> type[Recipe | MapRecipe]:
    data = tables.get("data")
    if "models" in tables:
        return EvaluateRecipe
    if isinstance(data, dict) and "images" in data:
        return CaptionRecipe if WRITER in tables else ScoreRecipe
    return Recipe


def _score(recipe: ScoreRecipe) -> Given:
    rewards, rows = by_pool(recipe.reward), rows_of(recipe)
    _check_gpus(_devices(rewards))
    return Given("score", f"{len(rows):,} images", _judges(rewards), scoring_pools(recipe, rows))


def _evaluate(recipe: EvaluateRecipe) -> Given:
    rewards, prompts = by_pool(recipe.reward), prompts_of(recipe)
    _check_gpus([("rollout", recipe.rollout.device, recipe.rollout.num_gpus), *_devices(rewards)])
    with tempfile.TemporaryDirectory() as run:
        models = open_models(recipe, Path(run))
        sheets = Sheets(recipe, models, prompts)
        pools = evaluating_pools(sheets, Path(run))
    bases: Read = {pool: (NamedModel(base, "pipeline", own),) for (base, own), pool in draws_at(models).items()}
    images = len(sheets.all) * sheets.images
    said = f"{images:,} images by {', '.join(model.name for model in models)}"
    return Given("evaluate", said, {**bases, **_judges(rewards)}, pools)


def _caption(recipe: CaptionRecipe) -> Given:
    writer = recipe.writer.options
    check_named({f"{WRITER}.{key}": named for key, named in writer.named_models().items()})
    _check_gpus([(WRITER, writer.where, recipe.writer.num_gpus)])
    rows = find_images(recipe.data.images, caption=None)
    read: Read = {WRITER: tuple(writer.named_models().values())}
    return Given("caption", f"{len(rows):,} images", read, captioning_pools(recipe, rows))


def _judges(rewards: Mapping[str, RewardTable]) -> Read:
    return {pool: tuple(table.options.named_models().values()) for pool, table in rewards.items()}


def _devices(rewards: Mapping[str, RewardTable]) -> list[tuple[str, str, float]]:
    return [(pool, table.options.where, table.num_gpus) for pool, table in rewards.items()]


def _check_gpus(devices: Iterable[tuple[str, str, float]]) -> None:
    if found := cuda_without_gpus(devices):
        raise UserError("\n".join(found))
