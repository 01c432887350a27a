"""JSON as it may stand in a user's file: whatever would fail or be lost later on is refused here, in words."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 4300  # of an integer: what Python reads
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # an escape of half a surrogate pair

NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class JsonError(ValueError):
    """What is wrong with a text, in words that follow on a place."""


class NotJson(JsonError):
    """The text is no JSON at all: "not JSON (...)"."""


def parse(text: str) -> Any:
    """The value that a text stands for.

    Raises JsonError for what is no JSON, NaN and infinities, a name that comes twice in an object, integers too long to be read,
    half a surrogate pair, and nesting deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON ({error})") from None
    except RecursionError:
        raise JsonError(f"nested deeper than {MAX_DEPTH} levels") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise JsonError(f"nested deeper than {MAX_DEPTH} levels")
    if HALF.search(text):
        _check_text(value)
    return value


def kind_of(value: Any) -> str:
    """What a value is called in JSON."""
    return NAMES.get(type(value), "null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise JsonError(f"`{next(name for name in names if names.count(name) > 1)}` comes twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise JsonError(f"{name} is no number in JSON: write null, or leave the field out")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {text[:20]} is out of range")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise JsonError(f"an integer of {len(text)} digits, {text[:10]}...: write it as text, or leave the field out")
    return int(text)


def _depth(value: Any) -> int:
    deepest, left = 0, [(value, 1)]
    while left:
        item, depth = left.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth)
            left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise JsonError(f"\\u{ord(half):04x} alone is half of a character: write the whole character") from None
