"""Writes docs/recipe.md from the code: each table, each key, its values and its default.

python -m pipelines.recipe.reference > docs/recipe.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.options import Change, Input
from pipelines.recipe.choices import Chosen
from pipelines.recipe.explain import toml
from pipelines.recipe.keys import marks
from pipelines.recipe.pages import markdown_table, words_of
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.evaluate import EvaluateRecipe
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.training import Recipe

OTHERS: Mapping[str, type[MapRecipe]] = {  # beside `train`
    "score": ScoreRecipe,
    "evaluate": EvaluateRecipe,
    "caption": CaptionRecipe,
}
HEAD = """# The recipe

A recipe is a TOML file. The tables and keys of a training run are below, then those of other programs; a key that is
not there is an error that names the nearest one. On the command line `--set table.key=value` sets one. This page is
made from the code (`python -m pipelines.recipe.reference > docs/recipe.md`), and a test holds it to that. `recipe.toml`
in the run folder has every key that has a value, defaults included.

A reward and an objective have a `type`: one of those below, or `"package.module:Name"`, options of your own
(docs/adding.md). The keys of the table are then those of that type.

The column *resume* says what becomes of a run that goes on with another value (docs/using_a_run.md): nothing where it
is empty, since such a key cannot change.

| resume | the key |
|---|---|
"""
CHANGES = {
    Change.FREE: "free",
    Change.BY_CONTENT: "same content",
    Change.ANEW: "digest anew",
    Change.RECORDED: "recorded",
    Change.EVALUATED: "recorded, evaluated anew",
}


def reference() -> str:
    """The page."""
    legend = "".join(f"| {words} | {change.value} |\n" for change, words in CHANGES.items())
    parts = [HEAD + legend, *_tables("", Recipe.model_fields, set())]
    for program, recipe in OTHERS.items():
        own = {name: field for name, field in recipe.model_fields.items() if not _shared(name, field)}
        as_above = ", ".join(f"`[{name}]`" for name in recipe.model_fields if name not in own)
        parts.append(f"# The recipe of `{program}`\n\nIt has {as_above} as above, and these tables.\n")
        parts += _tables("", own, set())
    return "\n".join(parts)


def _shared(name: str, field: FieldInfo) -> bool:
    """Whether a table is that of `train`."""
    ours = Recipe.model_fields.get(name)
    return ours is not None and ours.annotation == field.annotation


def _tables(prefix: str, fields: Mapping[str, FieldInfo], inherited: set[Change]) -> Iterator[str]:
    for name, field in fields.items():
        changes = inherited | set(marks(field, Change))
        for kind, table in kinds_of(field).items():
            title = f"## [{prefix}{name}]" + (f" with type = {toml(kind)}" if kind else "")
            yield f"{title}\n\n{cleandoc(table.__doc__ or '')}\n"
            yield _rows(table.model_fields, changes)
            yield from _tables(f"{prefix}{name}.", table.model_fields, changes)
        if more := _of_several(field):
            yield f"## [[{prefix}{name}]]\n\nOne of several. Beside the keys of its type, each has these.\n"
            yield _rows(more, changes)


def _of_several(field: FieldInfo) -> dict[str, FieldInfo]:
    """The keys of a table in an array of them that it does not have alone."""
    for chosen in marks(field, Chosen):
        alone, several = (each.model_of({}).model_fields for each in (chosen, chosen.of_several))
        return {name: key for name, key in several.items() if name not in alone}
    return {}


def _rows(fields: Mapping[str, FieldInfo], inherited: set[Change]) -> str:
    rows = []
    for name, field in fields.items():
        if name != "type" and not kinds_of(field):
            changed = ", ".join(CHANGES[change] for change in Change if change in inherited | set(marks(field, Change)))
            rows.append((f"`{name}`", values_of(field), default_of(field), changed, field.description or ""))
    return markdown_table(("key", "values", "default", "resume", "what it says"), rows)


def kinds_of(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    """The tables that a field may hold, by their `type`, or by "" if there is one kind alone; none for a field that is no table."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return {"": part}
    return next((chosen.kinds() for chosen in marks(field, Chosen)), {})


def default_of(field: FieldInfo) -> str:
    """As TOML; a key without one must be given."""
    if field.is_required():
        return "*must be given*"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{toml(value)}`"


def values_of(field: FieldInfo) -> str:
    """What a key may be, in words."""
    for mark in marks(field, Input):
        return "path, or a hub's name" if mark.hub else "path"
    return words_of(field.annotation, field.metadata)


if __name__ == "__main__":
    print(reference(), end="")
