"""Publishes figures through Ray: they appear on the metrics port of this process's node, for Prometheus.

It knows a figure's name, kind and tags, and nothing of what it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from ray.util.metrics import Counter, Gauge


class Definition(Protocol):
    """What is to be known of a metric before its first value."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["gauge", "counter"]: ...

    @property
    def description(self) -> str: ...

    @property
    def tags(self) -> tuple[str, ...]: ...


class Publisher:
    """The metrics of one run. Ray puts `ray_` before a name, and `_total` behind a counter's.

    Ray collects them every few seconds, and forgets them some ten seconds after this process has ended.
    """

    def __init__(self, definitions: Iterable[Definition]) -> None:
        kinds = {"gauge": Gauge, "counter": Counter}
        self._metrics = {one.name: kinds[one.kind](one.name, one.description, one.tags) for one in definitions}
        self._totals: dict[tuple[str, frozenset], float] = {}

    def publish(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Sets a gauge, or raises a counter to a total; a total that has gone back, as after a replay, counts from there."""
        metric = self._metrics[name]
        tags = {tag: _in_ascii(text) for tag, text in tags.items()}
        if isinstance(metric, Gauge):
            metric.set(value, tags=tags)
            return
        series = (name, frozenset(tags.items()))
        more = value - self._totals.get(series, 0.0)
        self._totals[series] = value
        if more > 0:
            metric.inc(more, tags=tags)


def _in_ascii(text: str) -> str:
    """Ray raises for a tag with other characters."""
    return text.encode("ascii", "backslashreplace").decode()
