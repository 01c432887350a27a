"""What is wrong with the tables of a recipe, in TOML's words: what was given, what is allowed, what to write."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.recipe.choices import Chosen

Location = tuple[int | str, ...]

SHOWN = 80  # characters of a value
WANTED: dict[str, str] = {  # by pydantic's name for a problem
    "int_type": "an integer is expected, such as 8",
    "int_from_float": "an integer is expected, such as 8",
    "float_type": "a number is expected, such as 0.5",
    "finite_number": "a finite number is expected",
    "bool_type": "true or false is expected, without quotes",
    "tuple_type": "an array is expected",
    "dict_type": "a table is expected, such as {{name = 1}}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "too_short": "at least {min_length} are expected",
    "too_long": "at most {max_length} are expected",
    "literal_error": "allowed are {expected}",
}
TABLES = ("model_type", "model_attributes_type")


def explain(error: ValidationError, recipe: type[BaseModel], given: dict[str, Any]) -> Iterator[str]:
    """A line per problem. `recipe` is the model of all tables, `given` what was read."""
    for problem in error.errors():
        where, kind, value = _path(problem["loc"]), problem["type"], problem.get("input")
        if kind == "extra_forbidden":
            yield f"{where}: no such key{_nearest(problem['loc'], recipe, given)}"
        elif kind == "too_short" and len(value or ()) >= problem["ctx"]["min_length"]:
            continue  # what is in it is wrong, which is told of that
        elif kind == "missing":
            yield _missing(problem["loc"])
        elif kind == "value_error":
            yield f"{problem['ctx']['error']}"
        elif kind in TABLES:
            yield _no_table(where, value, recipe)
        elif kind == "string_type":
            yield f"{where} = {toml(value)}: text is expected{_as_text(where, value)}"
        else:
            array = f": {where} = [{toml(value)}]" if kind == "tuple_type" and not isinstance(value, dict) else ""
            yield f"{where} = {toml(value)}: {_wanted(problem)}{array}"


def toml(value: Any) -> str:
    """A value as TOML writes it, shortened."""
    text = _written(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def _wanted(problem: Any) -> str:
    """What is allowed; texts in TOML's quotes."""
    words = {name: _plain(value) for name, value in problem.get("ctx", {}).items()}
    return WANTED[problem["type"]].format(**words) if problem["type"] in WANTED else problem["msg"]


def _plain(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).replace("'", '"')


def _missing(location: Location) -> str:
    """A key that is not there, or an array that is too short."""
    if isinstance(location[-1], int):
        return f"{_path(location[:-1])}: {location[-1] + 1} values are expected, in an array"
    return f"{_path(location)}: missing, and it has no default"


def _no_table(where: str, value: Any, recipe: type[BaseModel]) -> str:
    """Something that is no table, where one is expected."""
    if isinstance(value, tuple) and all(isinstance(item, dict) for item in value):
        return f"{where}: tables are given, [[{where}]], but one is expected: [{where}]"
    field = recipe.model_fields.get(where)
    chosen = _chosen(field) if field else None
    told = f": {where}.type = {toml(value)}" if chosen and value in chosen.registry else f": [{where}]"
    return f"{where} = {toml(value)}: a table is expected{told}"


def _as_text(where: str, value: Any) -> str:
    """How to give as text what TOML takes for something else, such as a number or a date."""
    return "" if isinstance(value, dict | tuple) else f", in quotes: {where} = {toml(_written(value))}"


def _path(location: Location) -> str:
    """Where a value stands in the file."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _nearest(location: Location, recipe: type[BaseModel], given: dict[str, Any]) -> str:
    """A hint: the nearest key of the table that holds `location`, else the table that has such a key, else all keys."""
    model: type[BaseModel] = recipe
    table: Any = given
    chosen: Chosen | None = None
    for part in location[:-1]:
        if isinstance(part, int):
            chosen, table = chosen and chosen.of_several, table[part]
        else:
            field, table = model.model_fields[part], table.get(part)
            chosen = _chosen(field)
        if not isinstance(table, list | tuple):
            model = chosen.model_of(table) if chosen else _model_of(field.annotation) or model
    names, name = list(model.model_fields), str(location[-1])
    if near := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {near[0]}?"
    if elsewhere := [place for table in recipe.model_fields for place in _places(name, table, recipe)]:
        return f"; there is {' and '.join(elsewhere)}"
    return f"; allowed are {', '.join(names)}"


def _places(name: str, table: str, recipe: type[BaseModel]) -> Iterator[str]:
    """`table.name`, if a table has this key; of a table that is chosen by its type, with the types that have it unless all do."""
    field = recipe.model_fields[table]
    chosen = _chosen(field)
    kinds = chosen.kinds() if chosen else {"": _model_of(field.annotation)}
    having = [kind for kind, model in kinds.items() if model and name in model.model_fields]
    if having:
        yield f"{table}.{name}" + (f" of {' and '.join(map(toml, having))}" if len(having) < len(kinds) else "")


def _chosen(field: FieldInfo) -> Chosen | None:
    return next((item for item in field.metadata if isinstance(item, Chosen)), None)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The table that an annotation is of; None for a value, or a table whose keys are names of the user's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_of, get_args(annotation))), None)
