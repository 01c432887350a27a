"""Labels of nodes, and which of them a pool asks for: Ray's label selectors, understood before Ray is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

VALUE = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
SELECTOR = re.compile(rf"(?P<other>!?)(?:in\((?P<several>{VALUE}(?:, ?{VALUE})*)\)|(?P<one>{VALUE}))")
NODE_ID = "ray.io/node-id"  # every node has its own


def check_selector(key: str, value: str) -> None:
    """Raises ValueError for what Ray would not understand."""
    if not SELECTOR.fullmatch(value):
        raise ValueError(f'{key} = "{value}" asks for no label: give a value, "!value", "in(a, b)" or "!in(a, b)"')


def matches(selectors: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is meant. One without a label is also meant by a "!" before its value."""
    return all(_matches(value, labels.get(key)) for key, value in selectors.items())


def listed(labels: Mapping[str, str]) -> str:
    """The labels as Ray's command line takes them, but for the node's own number."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != NODE_ID)


def _matches(selector: str, label: str | None) -> bool:
    found = SELECTOR.fullmatch(selector)
    assert found, "checked before"
    values = re.split(", ?", found["several"] or found["one"])
    return (label in values) != bool(found["other"])
