"""The reward worker's shell: what goes to the reward and what to the checker."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.messages import Prompt
from actors.reward.actor import RewardActor

PROMPT = Prompt("7", "a red circle", "single", {"objects": [["red", "circle"]]})
IMAGES = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def brightness(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker that says what it was told."""
    assert prompt == {"id": "7", "caption": "a red circle", "category": "single", "objects": [["red", "circle"]]}
    return {"accuracy": images_KHWC.mean((1, 2, 3)).tolist()}


@pytest.fixture(scope="module")
def settings(tiny_llava: Path) -> dict:
    return {"type": "promptecho", "model": str(tiny_llava)}


@pytest.fixture
def checked(settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RewardActor:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_checker.py").write_text("def check(images, prompt):\n    raise NotImplementedError\n")
    actor = RewardActor(settings, "a_checker:check", num_threads=1)
    actor.checker = brightness
    return actor


def test_the_checkers_figures_go_apart_from_the_rewards(checked: RewardActor):
    scores, checks = checked.evaluate(PROMPT, IMAGES)
    assert checks == {"accuracy": IMAGES.mean((1, 2, 3)).tolist()}
    plain = checked.score(PROMPT, IMAGES)
    assert (scores.rewards_K, scores.metrics) == (plain.rewards_K, plain.metrics)


def test_a_reward_never_sees_the_prompts_other_fields(checked: RewardActor):
    bare = Prompt(PROMPT.id, PROMPT.caption)
    assert checked.score(bare, IMAGES).rewards_K == checked.score(PROMPT, IMAGES).rewards_K


def test_without_a_checker_there_are_no_checks(settings: dict):
    assert RewardActor(settings, None, 1).check(PROMPT, IMAGES) == {}


def test_a_checker_that_is_not_there_fails_at_the_start(settings: dict):
    with pytest.raises(ModuleNotFoundError):
        RewardActor(settings, "no_such_module:check", 1)


def test_it_explains_and_says_where_it_runs(settings: dict):
    actor = RewardActor(settings, None, 1)
    explained = actor.explain(PROMPT, IMAGES)
    means = explained.log_probs_KT.mean(1, dtype=np.float64)
    assert actor.score(PROMPT, IMAGES).rewards_K == pytest.approx(means.tolist())
    info = actor.info()
    assert (info["device"], info["threads"], info["model"]) == ("cpu", 1, settings["model"])
    assert info["versions"]["torch"] == torch.__version__
