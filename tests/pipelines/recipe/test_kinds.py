"""A program's own kind of recipe, made of shared tables: it is read, checked, overridden, hashed and dumped as that of `train`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import pytest

from actors.options import Change, Input, Table
from pipelines.recipe.changes import recipe_sha256
from pipelines.recipe.errors import UserError
from pipelines.recipe.keys import inputs
from pipelines.recipe.load import dump_recipe, load_recipe, parse_recipe
from pipelines.recipe.tables import Cluster, Pool, Run, Source

TEXT = """
[run]
seed = 3
[data]
images = "toy/data"
[painter]
size = 2
"""


class Images(Table):
    """What is to be looked at."""

    images: Annotated[Source, Change.BY_CONTENT]
    caption: str = "caption"


class SmallRecipe(Table):
    """A program that looks at images."""

    run: Run = Run()
    data: Images
    painter: Pool = Pool()
    cluster: Annotated[Cluster, Change.FREE] = Cluster()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def test_it_is_read_with_its_overrides_and_reads_back_the_same(path: Path) -> None:
    recipe = load_recipe(path, ["painter.size=4", "cluster.autoscale.enabled=true"], SmallRecipe)
    assert (recipe.run.seed, recipe.painter.size, recipe.cluster.autoscale.enabled) == (3, 4, True)
    assert parse_recipe(tomllib.loads(dump_recipe(recipe)), "dump", SmallRecipe) == recipe


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("painter.sise=2", "painter.sise: no such key; did you mean size?"),
        ("run.caption=x", "run.caption: no such key; there is data.caption"),
        ("policy.lora_rank=2", "policy: no such key; allowed are run, data, painter, cluster"),
        ("data=3", "data = 3: a table is expected: [data]"),
        ("painter.resources={GPU = 1}", "num_gpus says how many"),
    ],
)
def test_what_is_wrong_is_told_in_its_own_keys(path: Path, override: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(path, [override], SmallRecipe)
    assert told in str(error.value)


def test_its_inputs_are_found_by_their_marks_and_lead_from_the_repositorys_root(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, kind=SmallRecipe)
    [(key, place, mark)] = inputs(recipe)
    assert (key, mark) == ("data.images", Input())
    assert Path(place).is_absolute()
    assert Path(place).name == "data"


def test_its_hash_is_of_what_decides_its_result(path: Path) -> None:
    def hash_of(*overrides: str) -> str:
        return recipe_sha256(load_recipe(path, overrides, SmallRecipe))

    assert hash_of("painter.size=5", "data.images=elsewhere", "cluster.dashboard=true") == hash_of()
    assert hash_of("data.caption=text") != hash_of()
