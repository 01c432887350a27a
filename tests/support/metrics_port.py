"""What Prometheus would read from a Ray node."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import ray
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 180.0
Series = dict[tuple[str, str], float]


def series_of(run: str) -> Series:
    """(name, what its own tag is) -> value of a run's metrics on the only node of the cluster."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.labels.get("run") == run:
            own = [
                sample.labels[tag]
                for tag in ("pool", "stage", "cause", "term", "quantile", "guidance")
                if tag in sample.labels
            ]
            found[sample.name, own[0] if own else ""] = sample.value
    return found


def eventually(run: str, condition: Callable[[Series], bool]) -> Series:
    """The run's metrics once they fulfil the condition; Ray collects them every few seconds."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition(found := series_of(run)):
        assert time.monotonic() < give_up, f"the metrics of {run} are {found}"
        time.sleep(0.5)
    return found
