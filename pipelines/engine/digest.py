"""The digest of a run: a hash chain over its steps, equal for two runs exactly if they trained alike to the bit.

What a resume changes of the recipe is a link of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

FIRST = "0" * 64


def next_digest(
    previous: str,
    step: int,
    groups: Sequence[tuple[str, int, Sequence[float]]],
    loss: float | None,
    adapter_sha256: str,
) -> str:
    """sha256 over the digest before, the step, each group's (prompt id, policy version, rewards), the loss and the adapter.

    Floats enter by their exact hexadecimal form. Nothing of workers, attempts or time enters.
    """
    content = [
        previous,
        step,
        [[prompt, version, [float(reward).hex() for reward in rewards]] for prompt, version, rewards in groups],
        None if loss is None else float(loss).hex(),
        adapter_sha256,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def changed_digest(previous: str, step: int, changes: Mapping[str, Any]) -> str:
    """sha256 over the digest before, the step after which the recipe changed, and (old value, new value) by key path."""
    content = [previous, "recipe changed after", step, sorted(changes.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
