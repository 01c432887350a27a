"""What differs between the recipes of several runs, also of different programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.recipe.explain import toml
from pipelines.reporting.side_by_side.run import NOTHING, Run

SAID_ELSEWHERE = "run.notes"  # in each run's report


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, the value in each run as TOML) of every key in which two recipes differ, in the order of the recipes."""
    leaves = [dict(_leaves("", run.recipe)) for run in runs]
    paths = {path: None for found in leaves for path in found if path != SAID_ELSEWHERE}
    rows = [(path, [toml(found[path]) if path in found else NOTHING for found in leaves]) for path in paths]
    return [
        (path, words)
        for path, words in rows
        if any(found.get(path, NOTHING) != leaves[0].get(path, NOTHING) for found in leaves)
    ]


def by_value(names: Sequence[str], values: Sequence[str]) -> str:
    """Which runs have which value, in a line: `0.001 (a, b)  0.002 (c)`."""
    having: dict[str, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        having.setdefault(value, []).append(name)
    return "  ".join(f"{value} ({', '.join(same)})" for value, same in having.items())


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value by its path; tables in a list by their names, else by their numbers. An empty table says nothing."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value, 1):
            yield from _leaves(f"{prefix}.{item.get('name', number)}", item)
    else:
        yield prefix, value
