"""The digest of a run: a hash chain over its steps, equal for two runs exactly if they trained alike to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

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
