"""The digest of a run: a hash chain over its steps, equal for two runs exactly if they trained alike to the bit.

What a resume changes of the recipe is a link of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FIRST = "0" * 64


def next_digest(previous: str, step: int, *what: Any) -> str:
    """sha256 over the digest before, the step and what it produced: texts, numbers, None, and sequences of these.

    Floats enter by their exact hexadecimal form. Nothing of workers, attempts or time may be among it.
    """
    return hashlib.sha256(json.dumps([previous, step, *map(_exact, what)]).encode()).hexdigest()


def changed_digest(previous: str, step: int, changes: Mapping[str, Any]) -> str:
    """sha256 over the digest before, the step after which the recipe changed, and (old value, new value) by key path."""
    content = [previous, "recipe changed after", step, sorted(changes.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    return [_exact(each) for each in value] if isinstance(value, list | tuple) else value
