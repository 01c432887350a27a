"""What a vision-language model's answer says: the object in JSON within it, or a score. Loads no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
# The last number after the word, not one that begins a range such as "score (0-10)".
SCORE = re.compile(r"score[^\d-]{0,5}(-?\d++(?:\.\d++)?+)(?!\s*(?:-|–|to)\s*\d)", re.IGNORECASE)
NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?:/\s*\d+)?\s*")
SHOWN = 80  # characters of an answer in a message


class NoAnswer(ValueError):
    """An answer does not say what it was asked for."""


def object_in(answer: str) -> dict[str, Any]:
    """The JSON object of an answer: the answer itself, else what is fenced in it, else the last one that stands in it.

    Raises NoAnswer if there is none.
    """
    for text in (answer, *FENCED.findall(answer)):
        try:
            found = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    within = list(_objects(answer))
    if not within:
        raise NoAnswer(f"no JSON object stands in the answer {answer[:SHOWN]!r}")
    return within[-1]


def score_in(answer: str, highest: float) -> float:
    """The number that an answer gives as "score", within 0 and `highest`: in its JSON object, else after the word itself.

    Raises NoAnswer if there is none: an answer that cannot be read is no score.
    """
    try:
        said = object_in(answer)
    except NoAnswer:
        said = {}
    written = SCORE.findall(answer)
    score = _number(said["score"]) if "score" in said else float(written[-1]) if written else None
    if score is None:
        raise NoAnswer(f"no score stands in the answer {answer[:SHOWN]!r}")
    return min(max(score, 0.0), highest)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and (match := NUMBER.fullmatch(value)):
        value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text that is not within another one."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
            yield found
        except (json.JSONDecodeError, RecursionError):
            end = place + 1
        place = text.find("{", end)
