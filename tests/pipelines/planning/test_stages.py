"""Stages that sleep take the time that they are told, the same in every run."""

from __future__ import annotations

import statistics

import pytest

from actors.messages import DrawPart, DrawRequest, Prompt
from pipelines.planning.stages import SleepingPolicy, SleepingReward, SleepingRollout, Stage

SECONDS, TASKS = 2.0, 4000


def durations(**noise: float) -> list[float]:
    stage = Stage(SECONDS, **noise, sleep=lambda _: None)
    return [stage.work("task", number) for number in range(TASKS)]


@pytest.mark.parametrize("jitter", [0.05, 0.3, 1.2])
def test_jitter_is_the_relative_standard_deviation_and_leaves_the_mean(jitter: float) -> None:
    taken = durations(jitter=jitter)
    assert statistics.mean(taken) == pytest.approx(SECONDS, rel=3 * jitter / TASKS**0.5)
    assert statistics.stdev(taken) == pytest.approx(SECONDS * jitter, rel=0.1)
    assert min(taken) > 0
    assert taken == durations(jitter=jitter)


def test_one_task_in_a_hundred_straggles() -> None:
    taken = durations(straggling=5.0)
    assert set(taken) == {SECONDS, 5 * SECONDS}
    assert taken.count(5 * SECONDS) == pytest.approx(TASKS / 100, rel=0.5)


def request(seed: int) -> DrawRequest:
    return DrawRequest("train", 1, (DrawPart(0, 0, "a prompt", (seed,), (seed,)),), 3, "three", 1, 1.0, 8, 8)


def test_images_carry_what_their_score_depends_on() -> None:
    slept: list[float] = []
    rollout = SleepingRollout(SECONDS, payload_bytes=64, said_bytes=1000, sleep=slept.append)
    reward = SleepingReward(SECONDS, images=3, sleep=slept.append)
    ((report,), images, _), (_, others, _), (_, again, _) = (rollout.draw(request(seed), None) for seed in (7, 8, 7))
    assert (report.policy_version, report.adapter_sha256, report.num_bytes) == (3, "three", 1000)
    rewards = [reward.score(Prompt("p", "a prompt"), drawn).rewards_K for drawn in (images, others, again)]
    assert len(rewards[0]) == 3
    assert rewards[0] == rewards[2] != rewards[1]
    assert slept == [SECONDS] * 6


def test_an_adapter_is_its_version() -> None:
    policy = SleepingPolicy(SECONDS, sleep=lambda _: None)
    assert policy.update(4, ())["seconds"] == SECONDS
    report, adapter = policy.export(4)
    assert (report["sha256"], adapter.tolist()) == ("4", [4])
