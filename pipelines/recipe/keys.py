"""The keys of a recipe by their paths, such as `policy.learning_rate`, with the marks on their fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic.fields import FieldInfo

from actors.options import Input, Table

M = TypeVar("M")


@dataclass(frozen=True)
class Key:
    """A key that is no table itself, with its value."""

    path: str
    field: FieldInfo
    value: Any


def keys(table: Table, prefix: str = "") -> Iterator[Key]:
    """Every key of a recipe, or of one of its tables."""
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        if isinstance(value, Table):
            yield from keys(value, f"{prefix}{name}.")
        elif several := by_name(value):
            yield Key(f"{prefix}{name}", field, tuple(several))  # their order counts
            for each, one in several.items():
                yield from keys(one, f"{prefix}{name}.{each}.")
        else:
            yield Key(f"{prefix}{name}", field, value)


def by_name(value: Any) -> dict[str, Table]:
    """The tables of an array by their names; none for anything else."""
    if not isinstance(value, tuple) or not all(isinstance(each, Table) and "name" in vars(each) for each in value):
        return {}
    return {vars(table)["name"]: table for table in value}


def inputs(recipe: Table) -> Iterator[tuple[str, str, Input]]:
    """(path, place, mark) of every key that names what a run reads, and has a value."""
    for key in keys(recipe):
        for mark in marks(key.field, Input):
            if key.value:
                yield key.path, key.value, mark


def marks(field: FieldInfo, kind: type[M]) -> list[M]:
    """The marks of this kind in a field's annotation, those on the parts of a union included."""
    inner = [mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())]
    found = [mark for mark in (*field.metadata, *inner) if isinstance(mark, kind)]
    return [mark for number, mark in enumerate(found) if mark not in found[:number]]
