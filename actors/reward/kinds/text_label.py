"""The text that a designed image is to show, as a label: four lists of lines by their role, and their one spelling as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

ROLES = ("main_title", "subtitle", "selling_points", "other_text")
JsonStyle = Literal["compact", "spaced", "indented"]
Text = dict[str, list[str]]
"""By role, its lines in reading order; every role is there."""

_FORMATS: dict[JsonStyle, dict[str, Any]] = {
    "compact": {"separators": (",", ":")},
    "spaced": {"separators": (", ", ": ")},
    "indented": {"indent": 2},
}


def text_of(value: Any) -> Text:
    """What was given as an object, or as an object in JSON: roles that are not given have no lines. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON ({error})") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"is {value!r:.60}, but an object with the lists {', '.join(ROLES)} is expected")
    if unknown := [role for role in value if role not in ROLES]:
        raise ValueError(f"has {unknown[0]!r}, but the lists are {', '.join(ROLES)}")
    text = {role: _lines(role, value.get(role)) for role in ROLES}
    if not any(text.values()):
        raise ValueError("has no line of text")
    return text


def label_of(text: Text, style: JsonStyle = "spaced") -> str:
    """Its spelling: roles in their order, all of them, other scripts as they are."""
    return json.dumps({role: text[role] for role in ROLES}, ensure_ascii=False, **_FORMATS[style])


def _lines(role: str, value: Any) -> list[str]:
    if value is None:
        return []
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"has {role} = {value!r:.60}, but a list of lines is expected")
    split = (part.strip() for line in lines for part in line.splitlines())
    return [line for line in split if line]
