"""What a run may change of its recipe when it is resumed, and what of that decides its result.

Keys are known by their whole path, such as `policy.learning_rate`, and each says itself what it is, by a mark on its field or its
table (`actors.options.Change`). A key without a mark decides the result, and cannot change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from actors.options import Change, Table
from actors.paths import portable
from pipelines.recipe.keys import by_name, inputs, keys, marks

Changes = dict[str, tuple[Any, Any]]  # key path -> (old value, new value); None: it has none

DECIDES_NOTHING = {Change.FREE, Change.BY_CONTENT, Change.ANEW}


def recipe_sha256(recipe: Table) -> str:
    """A hash of all that decides the result, but for the number of ranks and the ZeRO stage."""
    kept = {path: value for path, value in _leaves(recipe) if not marks_of(path, recipe) & DECIDES_NOTHING}
    return hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()


def differences(old: Table, new: Table) -> Changes:
    """Every key whose value differs."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = {**before, **after}
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def recorded(changes: Changes, recipe: Table) -> Changes:
    """Those that change the result, and are allowed."""
    return _marked(changes, recipe, {Change.RECORDED, Change.EVALUATED})


def evaluated_anew(changes: Changes, recipe: Table) -> bool:
    """Whether evaluations before the changes do not compare with those after them."""
    return bool(_marked(changes, recipe, {Change.EVALUATED}))


def refused(changes: Changes, recipe: Table) -> Changes:
    """Those that a run cannot change on its way."""
    return {path: change for path, change in changes.items() if not marks_of(path, recipe)}


def in_words(changes: Changes) -> str:
    """`policy.learning_rate 0.002 -> 0.001, ...`, for people."""
    return ", ".join(f"{path} {old!r} -> {new!r}" for path, (old, new) in changes.items())


def marks_of(path: str, recipe: Table) -> set[Change]:
    """The marks of a key and of the tables that hold it; none of a key that the recipe does not have."""
    found: set[Change] = set()
    here: Any = recipe
    for name in path.split("."):
        if isinstance(here, tuple):
            here = by_name(here).get(name)
            continue
        if not isinstance(here, Table) or name not in type(here).model_fields:
            break
        found.update(marks(type(here).model_fields[name], Change))
        here = getattr(here, name)
    return found


def _marked(changes: Changes, recipe: Table, marks: set[Change]) -> Changes:
    return {path: change for path, change in changes.items() if marks_of(path, recipe) & marks}


def _leaves(recipe: Table) -> Iterator[tuple[str, Any]]:
    """Every value by its path, those of dictionaries too; what lies in the repository as it is named from its root."""
    places = {path for path, _, _ in inputs(recipe)}
    for key in keys(recipe):
        if isinstance(key.value, dict):
            yield from ((f"{key.path}.{name}", value) for name, value in key.value.items())
        elif key.value is not None:
            yield key.path, portable(key.value) if key.path in places else key.value
