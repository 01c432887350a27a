"""The page of the recipe is what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from actors.options import Count, Table
from pipelines.recipe.keys import keys
from pipelines.recipe.load import load_recipe
from pipelines.recipe.reference import default_of, kinds_of, reference, values_of
from pipelines.recipe.training import Recipe

PAGE = Path(__file__).parents[3] / "docs" / "recipe.md"


def test_the_page_of_the_recipe_is_made_from_the_code() -> None:
    assert PAGE.read_text() == reference(), "python -m pipelines.recipe.reference > docs/recipe.md"


def test_the_page_has_every_key_of_a_recipe(tiny_world: Path) -> None:
    page, recipe = PAGE.read_text(), load_recipe(tiny_world)
    titles = {name: f' with type = "{getattr(recipe, name).type}"' for name in ("reward", "objective")}
    for key in keys(recipe):
        table, _, name = key.path.rpartition(".")
        section = page.partition(f"## [{table}]{titles.get(table, '')}\n")[2].partition("\n## ")[0]
        assert name == "type" or f"| `{name}` |" in section or f"\n## [{key.path}]\n" in page, key.path


def test_every_key_has_its_sentence() -> None:
    def missing(name: str, table: type) -> list[str]:
        fields = table.model_fields.items()
        found = [
            f"{name}.{key}" for key, field in fields if key != "type" and not kinds_of(field) and not field.description
        ]
        return found + [
            path
            for key, field in fields
            for inner in kinds_of(field).values()
            for path in missing(f"{name}.{key}", inner)
        ]

    assert missing("recipe", Recipe) == []


class Odd(Table):
    """Keys of every kind."""

    needed: str
    """Text."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A bounded number."""
    count: Count | None = None
    """An optional one."""
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)
    """An array."""
    pair: tuple[float, float] = (0.9, 0.99)
    """Two numbers."""
    way: Literal["on", "off"] = "on"
    """A choice."""
    mix: dict[str, Count] = Field(default_factory=dict)
    """A table."""


def test_values_and_defaults_are_told_as_toml_has_them() -> None:
    assert {name: (values_of(field), default_of(field)) for name, field in Odd.model_fields.items()} == {
        "needed": ("text", "*must be given*"),
        "share": ("number > 0, ≤ 1", "`0.5`"),
        "count": ("integer ≥ 1", "none"),
        "names": ("array of text, 1 or more", '`["a"]`'),
        "pair": ("2 × number", "`[0.9, 0.99]`"),
        "way": ('`"on"`, `"off"`', '`"on"`'),
        "mix": ("table of integer ≥ 1", "`{}`"),
    }
