"""What a pod of a RayJob's group offers to Ray, from its resources and start parameters."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.submitting.manifest.groups import groups_of, quantity


def test_a_node_has_what_its_group_says() -> None:
    """The group's own resources before those of `ray start`, these before the container's."""
    limits = {"cpu": "1500m", "memory": "8Gi", "nvidia.com/gpu": 2}
    table = {
        "groupName": "some",
        "labels": {"zone": "a"},
        "replicas": 1,
        "maxReplicas": 3,
        "numOfHosts": 2,
        "template": {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits}}]}},
    }
    cluster: dict[str, Any] = {"headGroupSpec": {}, "workerGroupSpecs": [table]}
    [_, group] = groups_of(cluster)
    assert group.node.resources == {"CPU": 2, "GPU": 2}
    assert group.node.labels == {"zone": "a"}
    assert (group.start, group.largest) == (2, 2)
    [_, group] = groups_of({**cluster, "enableInTreeAutoscaling": True})
    assert (group.start, group.largest) == (2, 6)
    table["rayStartParams"] = {"num-gpus": "1", "resources": '"{\\"easel\\": 3}"'}
    assert group.node.resources == {"CPU": 2, "GPU": 1, "easel": 3}
    table["rayStartParams"] = {}
    table["resources"] = {"CPU": "8", "GPU": "4", "easel": "2"}
    assert group.node.resources == {"CPU": 8, "GPU": 4, "easel": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("4", 4), (4, 4), ("1.5Gi", 1.5 * 2**30), ("2k", 2000), ("3M", 3e6), ("1e3", 1000)],
)
def test_quantities(text: str | int, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="'16GB' is no quantity"):
        quantity("16GB")
