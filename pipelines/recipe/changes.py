"""What a run may change of its recipe when it is resumed, and what of that decides its result.

Keys are known by their whole path, such as `policy.learning_rate`; docs/using_a_run.md says why each is where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from actors.models.path import portable
from pipelines.recipe.training import Recipe

Changes = dict[str, tuple[Any, Any]]  # key path -> (old value, new value); None: it has none

RESOURCES = ("num_cpus", "num_gpus", "resources", "labels")
POOL = ("size", "min", "max", *RESOURCES)
BOOKS = ("checkpoint_every", "keep_checkpoints", "keep_best", "checkpoints")
LIMITS = ("retries", "lost_retries", "max_failures_in_row", "max_groups_in_flight", "max_bytes_in_flight")
FREE = (  # they decide nothing; what lies at a path under [data] is compared by its content
    *(
        "cluster",
        "samples",
        "monitor",
        "run.name",
        "run.notes",
        "data.train",
        "data.heldout",
        "data.caption",
        "policy.init_adapter",
        "policy.text_encoders",
        "rollout.text_encoders",
    ),
    *(f"{pool}.{key}" for pool in ("rollout", "reward") for key in POOL),
    *(f"policy.{key}" for key in RESOURCES),
    *(f"loop.{key}" for key in BOOKS + LIMITS),
)
ANEW = ("policy.ranks", "policy.zero_stage")  # sums are then taken in another order, and the digest begins anew
HELDOUT = ("heldout", "data.heldout")  # earlier evaluations do not compare
MODELS = ("policy.model", "reward.model")
RECORDED = (  # they may change, and from there on the digest is another one
    *HELDOUT,
    "loop.steps",
    "run.deterministic",
    *(f"policy.{key}" for key in ("learning_rate", "warmup_steps", "final_learning_rate", "betas", "weight_decay")),
    *(f"policy.{key}" for key in ("max_grad_norm", "micro_batch")),
)


def recipe_sha256(recipe: Recipe) -> str:
    """A hash of all that decides the result, but for the number of ranks and the ZeRO stage."""
    kept = {path: value for path, value in _flat(recipe).items() if not within(path, FREE + ANEW)}
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def differences(old: Recipe, new: Recipe) -> Changes:
    """Every key whose value differs."""
    before, after = _flat(old), _flat(new)
    paths = {**before, **after}
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def recorded(changes: Changes) -> Changes:
    """Those that change the result, and are allowed."""
    return {path: change for path, change in changes.items() if within(path, RECORDED)}


def refused(changes: Changes) -> Changes:
    """Those that a run cannot change on its way."""
    return {path: change for path, change in changes.items() if not within(path, FREE + ANEW + RECORDED)}


def within(path: str, keys: Iterable[str]) -> bool:
    """Whether a key path is one of `keys`, or lies in a table that is."""
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def in_words(changes: Changes) -> str:
    """`policy.learning_rate 0.002 -> 0.001, ...`, for people."""
    return ", ".join(f"{path} {old!r} -> {new!r}" for path, (old, new) in changes.items())


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Every value by its key path; models in the repository as they are named from its root."""
    flat = dict(_leaves("", recipe.model_dump()))
    return flat | {path: portable(flat[path]) for path in MODELS}


def _leaves(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}{key}.", value)
        elif value is not None:
            yield f"{prefix}{key}", value
