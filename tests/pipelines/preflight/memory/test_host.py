"""What a node's workers read at once while they start."""

from __future__ import annotations

from pipelines.preflight.memory.cards import Actor
from pipelines.preflight.memory.host import starting_at_once

POLICY = Actor("policy", 4, 1.0, True, {}, loading=15)
ROLLOUT = Actor("rollout", 30, 0.5, True, {}, loading=9)
REWARD = Actor("reward", 2, 1.0, True, {})


def test_a_node_is_filled_with_those_that_read_most_for_their_share_of_a_gpu() -> None:
    assert starting_at_once([POLICY, ROLLOUT, REWARD], gpus=8) == (16 * 9, {"rollout": 16})
    assert starting_at_once([POLICY, REWARD], gpus=8) == (4 * 15, {"policy": 4})
    few = Actor("rollout", 3, 0.5, True, {}, loading=9)
    assert starting_at_once([POLICY, few], gpus=4) == (3 * 9 + 2 * 15, {"rollout": 3, "policy": 2})


def test_workers_on_a_cpu_read_to_where_they_stay() -> None:
    assert starting_at_once([Actor("policy", 4, 0.0, False, {}, loading=15)]) == (0, {})
