"""Rewards of a server: the same figures, and none where it failed."""

import numpy as np
import pytest

from actors.messages import Prompt
from actors.process import Process
from actors.reward.actor import RewardActor
from actors.reward.kinds.registry import REWARDS
from tests.support.model_server import ModelServer, model_server

PROMPT = Prompt("0", "a red circle left of a blue square")
IMAGES = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def options(server: ModelServer, name: str, **keys: object):
    return REWARDS[name](base_url=server.base_url, model="m", tries=2, backoff_s=0.01, answer_s=0.3, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("mood", ["500", "half JSON", "another shape", "nothing", "slow", "no numbers"])
@pytest.mark.parametrize("name", ["remote_promptecho", "remote_vqa_score"])
def test_a_server_that_fails_gives_no_score(name: str, mood: str):
    with model_server() as server:
        reward = options(server, name, at_once=1).load()
        clean = reward.score(IMAGES, PROMPT)
        server.moods = [mood]
        assert reward.score(IMAGES, PROMPT).rewards_K == clean.rewards_K, "it is asked again"
        server.moods = [mood] * 6
        with pytest.raises(ValueError, match=r"^3 of 3 images have no score: .*the last of 2 tries"):
            reward.score(IMAGES, PROMPT)


def test_an_image_of_a_set_has_the_reason_instead_of_a_score(server: ModelServer):
    actor = RewardActor(Process(1), options(server, "remote_promptecho"))
    assert actor.judge(PROMPT, IMAGES[:1], tokens=True).reward is not None
    server.moods = ["503"] * 2
    verdict = actor.judge(PROMPT, IMAGES[:1], tokens=True)
    assert verdict.reward is None
    assert "503" in verdict.reason


def test_a_sum_is_the_mean_times_the_tokens(server: ModelServer):
    mean, total = (options(server, "remote_promptecho", reduction=how).load() for how in ("mean", "sum"))
    expected = [8 * value for value in mean.score(IMAGES, PROMPT).rewards_K]
    assert total.score(IMAGES, PROMPT).rewards_K == pytest.approx(expected)
