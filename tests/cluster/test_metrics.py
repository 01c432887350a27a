"""The publisher: what is published stands on the node's metrics port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.metrics import Publisher
from tests.support.metrics_port import eventually


@dataclass(frozen=True)
class Known:
    name: str
    kind: Literal["gauge", "counter"]
    tags: tuple[str, ...]
    description: str = "of a test"


def test_gauges_are_set_and_counters_follow_their_total_also_after_a_replay(ray_cluster: str) -> None:
    publisher = Publisher(
        [Known("test_size", "gauge", ("run", "pool")), Known("test_images", "counter", ("run",))],
    )
    for size in (3.0, 2.5):
        publisher.publish("test_size", size, {"run": "publisher", "pool": "reward"})
    publisher.publish("test_size", 7.0, {"run": "publisher", "pool": "rollout"})
    for total in (0, 100, 100, 150, 120, 130):  # back to a checkpoint at 120
        publisher.publish("test_images", float(total), {"run": "publisher"})
    found = eventually("publisher", lambda found: len(found) == 3)
    assert found == {
        ("ray_test_size", "reward"): 2.5,
        ("ray_test_size", "rollout"): 7.0,
        ("ray_test_images_total", ""): 160.0,
    }
