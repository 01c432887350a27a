"""What pages that are made from the code have in common: types in words, and tables of Markdown."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from pipelines.recipe.explain import toml

SIGNS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "any"}


def markdown_table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """A table, with an empty line after it."""
    names, *lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in (head, *rows)]
    return "\n".join([names, "|" + "---|" * (names.count("|") - 1), *lines, ""])


def words_of(kind: Any, bounds: Iterable[Any] = (), none: str = "") -> str:
    """A type, and the bounds in its annotation, in words. none: what no value is called; empty: it goes without saying."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        marks = [bound for mark in inner[1:] for bound in getattr(mark, "metadata", [mark])]
        return words_of(inner[0], marks, none)
    if origin is Literal:
        return ", ".join(f"`{toml(one)}`" for one in inner)
    if origin in (Union, types.UnionType):
        each = [none if one is type(None) else words_of(one, bounds, none) for one in inner]
        return " or ".join(filter(None, each))
    if origin in (dict, Mapping):
        return f"table of {words_of(inner[1], (), none)}"
    if origin is list or (origin is tuple and inner[-1] is ...):
        least = "".join(f", {bound.min_length} or more" for bound in bounds if isinstance(bound, MinLen))
        return f"array of {words_of(inner[0], (), none)}{least}"
    if origin is tuple:
        return f"{len(inner)} × {words_of(inner[0], (), none)}"
    told = [f"{SIGNS[type(b)][1]} {getattr(b, SIGNS[type(b)][0]):,}" for b in bounds if type(b) in SIGNS]
    return " ".join([WORDS.get(kind) or kind.__name__, ", ".join(told)]).strip()
