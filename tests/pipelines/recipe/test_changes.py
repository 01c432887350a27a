"""Which keys of a recipe decide its result: each by its whole path and its own mark, never by its last word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from actors.options import Change, Count, Model, Table
from pipelines.recipe.changes import (
    DECIDES_NOTHING,
    differences,
    evaluated_anew,
    marks_of,
    recipe_sha256,
    recorded,
    refused,
)
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

OF_A_WORKER = {"num_cpus", "num_gpus", "resources", "labels"}
OF_A_POOL = {"size", "min", "max", *OF_A_WORKER}
DECIDE_NOTHING = {
    *(f"{table}.{key}" for table in ("rollout", "reward") for key in OF_A_POOL),
    *(f"policy.{key}" for key in OF_A_WORKER),
    "policy.init_adapter", "policy.text_encoders", "rollout.text_encoders", "policy.ranks", "policy.zero_stage",
    "run.name", "run.notes", "data.train", "data.heldout", "data.caption",
    "loop.retries", "loop.lost_retries", "loop.max_failures_in_row", "loop.max_groups_in_flight",
    "loop.max_bytes_in_flight", "loop.checkpoint_every", "loop.keep_checkpoints", "loop.keep_best", "loop.checkpoints",
}  # fmt: skip
WATCHING = ("cluster", "samples", "monitor")


def with_value(table: Table, path: list[str], value: Any) -> Table:
    """The table with another value at a path, unchecked."""
    name, *rest = path
    inner = with_value(getattr(table, name), rest, value) if rest else value
    return table.model_copy(update={name: inner})


def keys(table: Table, prefix: str = "") -> Iterator[str]:
    """The path of every key of a recipe."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, Table) else [f"{prefix}{name}"]


@pytest.fixture
def recipe(tiny_world: Path) -> Recipe:
    return load_recipe(tiny_world)


def test_every_key_changes_the_hash_unless_it_decides_nothing(recipe: Recipe) -> None:
    before, free = recipe_sha256(recipe), set()
    for path in keys(recipe):
        if recipe_sha256(with_value(recipe, path.split("."), "another value")) == before:
            free.add(path)
    assert {path for path in free if not path.startswith(WATCHING)} == DECIDE_NOTHING
    assert {path for path in keys(recipe) if path.startswith(WATCHING)} <= free


def test_a_key_without_a_mark_cannot_change(recipe: Recipe) -> None:
    for path in keys(recipe):
        changed = differences(recipe, with_value(recipe, path.split("."), "another value"))
        assert set(changed) == {path}
        assert bool(refused(changed, recipe)) == (not marks_of(path, recipe))


def test_what_changes_the_result_and_is_allowed_is_recorded(recipe: Recipe) -> None:
    other = load_recipe_with(recipe, loop__steps=99, policy__learning_rate=0.5, policy__ranks=2, run__name="b")
    changed = differences(recipe, other)
    assert set(changed) == {"loop.steps", "policy.learning_rate", "policy.ranks", "run.name"}
    assert set(recorded(changed, other)) == {"loop.steps", "policy.learning_rate"}
    assert not evaluated_anew(changed, other)
    assert evaluated_anew(differences(recipe, load_recipe_with(recipe, heldout__chunk=1)), recipe)


def load_recipe_with(recipe: Recipe, **values: Any) -> Recipe:
    for path, value in values.items():
        recipe = with_value(recipe, path.split("__"), value)
    return recipe


class Objective(Table):
    """Options with the names of a pool's keys."""

    min: float = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    model: Model = "owner/name"


class Pool(Table):
    min: Annotated[Count, Change.FREE] = 1
    labels: Annotated[dict[str, str], Change.FREE] = Field(default_factory=dict)


class Small(Table):
    pool: Pool = Pool()
    objective: Objective = Objective()
    watch: Annotated[Objective, Change.FREE] = Objective()


def test_two_keys_of_one_name_in_different_tables_are_told_apart() -> None:
    small = Small()
    for name, value in (("min", 5), ("labels", {"room": "a"})):
        assert recipe_sha256(load_recipe_with(small, **{f"pool__{name}": value})) == recipe_sha256(small)
        assert recipe_sha256(load_recipe_with(small, **{f"watch__{name}": value})) == recipe_sha256(small)
        other = load_recipe_with(small, **{f"objective__{name}": value})
        assert recipe_sha256(other) != recipe_sha256(small)
        assert len(refused(differences(small, other), other)) == 1


def test_a_tables_mark_holds_for_all_that_is_in_it() -> None:
    assert marks_of("watch.labels.room", Small()) == {Change.FREE}
    assert marks_of("objective.labels.room", Small()) == set()
    assert marks_of("pool.nowhere", Small()) == set()


def test_neither_the_order_of_the_fields_nor_an_option_without_a_value_is_in_the_hash() -> None:
    class Reordered(Table):
        objective: Objective = Objective()
        pool: Pool = Pool()
        later: int | None = None

    assert recipe_sha256(Reordered()) == recipe_sha256(Small())


def test_a_model_of_the_repository_is_the_same_by_any_path_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Small(objective=Objective(model="toy/models/image"))
    monkeypatch.chdir(tmp_path)
    there = Small(objective=Objective(model="toy/models/image"))
    assert recipe_sha256(here) == recipe_sha256(there)
    assert differences(here, there) == {}


def test_the_marks_of_the_hash_are_those_that_decide_nothing() -> None:
    assert {mark for mark in Change if mark not in DECIDES_NOTHING} == {Change.RECORDED, Change.EVALUATED}
