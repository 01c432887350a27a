"""The reward worker's shell: what goes to the reward and what to the checker."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.messages import Prompt, Scores, ScoreTrial
from actors.mistake import Mistake
from actors.process import Process
from actors.reward.actor import RewardActor
from actors.reward.kinds.promptecho import PromptEchoOptions
from actors.reward.trial import try_reward

ONE_THREAD = Process(1)
PROMPT = Prompt("7", "a red circle", "single", {"objects": [["red", "circle"]]})
IMAGES = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def brightness(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker that says what it was told."""
    assert prompt == {"id": "7", "caption": "a red circle", "category": "single", "objects": [["red", "circle"]]}
    return {"accuracy": images_KHWC.mean((1, 2, 3)).tolist()}


@pytest.fixture(scope="module")
def options(tiny_llava: Path) -> PromptEchoOptions:
    return PromptEchoOptions(model=str(tiny_llava))


@pytest.fixture
def checked(options: PromptEchoOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RewardActor:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_checker.py").write_text("def check(images, prompt):\n    raise NotImplementedError\n")
    actor = RewardActor(ONE_THREAD, options, "a_checker:check")
    assert actor.checker
    actor.checker.function = brightness
    return actor


def test_the_checkers_figures_go_apart_from_the_rewards(checked: RewardActor):
    scores, checks = checked.evaluate(PROMPT, IMAGES)
    assert checks == {"accuracy": IMAGES.mean((1, 2, 3)).tolist()}
    plain = checked.score(PROMPT, IMAGES)
    assert (scores.rewards_K, scores.metrics) == (plain.rewards_K, plain.metrics)


def test_a_reward_never_sees_the_prompts_other_fields(checked: RewardActor):
    bare = Prompt(PROMPT.id, PROMPT.caption)
    assert checked.score(bare, IMAGES).rewards_K == checked.score(PROMPT, IMAGES).rewards_K


def test_without_a_checker_there_are_no_checks(options: PromptEchoOptions):
    assert RewardActor(ONE_THREAD, options).check(PROMPT, IMAGES) == {}


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (Scores((0.5,)), "rewards_K = \\(0.5,\\) for 3 images"),
        (Scores((0.5, None, 0.5)), "rewards_K = "),
        (Scores((0.5,) * 3, {"sharp": (1.0,)}), "sharp = "),
        (Scores((0.5,) * 3, {"sharp": 1.0}), "sharp = 1.0"),
    ],
)
def test_a_reward_that_gives_anything_but_a_number_for_each_image_fails_its_task(
    options: PromptEchoOptions, scores: Scores, told: str
):
    actor = RewardActor(ONE_THREAD, options)
    actor.reward = SimpleNamespace(score=lambda images_KHWC, prompt: scores)
    with pytest.raises(ValueError, match=told):
        actor.score(PROMPT, IMAGES)
    with pytest.raises(Mistake, match="for 2 images" if len(scores.rewards_K) == 1 else " = "):
        try_reward(actor.reward, PROMPT, "reward.type = 'mine'", ScoreTrial(16, 16, None))


def raises(images_KHWC, prompt):
    raise KeyError("no such thing")


def one_argument(images_KHWC):
    return {}


def no_list(images_KHWC, prompt):
    return {"accuracy": 1.0}


def too_few(images_KHWC, prompt):
    return {"accuracy": []}


def not_finite(images_KHWC, prompt):
    return {"accuracy": [float("nan")] * len(images_KHWC)}


NO_FUNCTION = 3
HERE = __name__


@pytest.mark.parametrize(
    ("checker", "told"),
    [
        ("no_such_module:check", "No module named 'no_such_module'"),
        ("nope", "has no attribute 'nope'"),
        ("NO_FUNCTION", "is no function, but 3"),
        ("raises", "raised KeyError: 'no such thing' for a grey image of the prompt 'p'"),
        ("one_argument", "raised TypeError"),
        ("no_list", "gave accuracy = 1.0: give a dict of figures by name, each a list of 1 numbers"),
        ("too_few", r"gave accuracy = \[\]"),
        ("not_finite", r"gave accuracy = \[nan\], which are not all finite numbers"),
    ],
)
def test_a_checker_that_cannot_be_used_is_a_mistake_at_the_start(
    options: PromptEchoOptions, monkeypatch, checker, told
):
    monkeypatch.setitem(sys.modules, "its_checkers", sys.modules[HERE])
    name = checker if ":" in checker else f"its_checkers:{checker}"
    with pytest.raises(Mistake, match=told):
        RewardActor(ONE_THREAD, options, name, trial=ScoreTrial(32, 32, Prompt("p", "a red circle")))


def test_figures_of_a_checker_that_are_no_numbers_fail_their_group(options: PromptEchoOptions, monkeypatch):
    monkeypatch.setitem(sys.modules, "its_checkers", sys.modules[HERE])
    actor = RewardActor(ONE_THREAD, options, "its_checkers:not_finite")
    with pytest.raises(ValueError, match="not all finite numbers"):
        actor.evaluate(PROMPT, IMAGES)


def test_a_judge_whose_scores_are_no_numbers_is_a_mistake_at_the_start(options: PromptEchoOptions):
    actor = RewardActor(ONE_THREAD, options, trial=ScoreTrial(32, 32))
    with torch.no_grad():
        actor.reward.vlm.lm_head.mul_(float("nan"))
    with pytest.raises(Mistake, match="scores an image with nan"):
        try_reward(actor.reward, PROMPT, "the judge", ScoreTrial(32, 32))


def test_it_explains_and_says_where_it_runs(options: PromptEchoOptions):
    actor = RewardActor(ONE_THREAD, options)
    explained = actor.explain(PROMPT, IMAGES)
    means = explained.log_probs_KT.mean(1, dtype=np.float64)
    assert actor.score(PROMPT, IMAGES).rewards_K == pytest.approx(means.tolist())
    info = actor.info()
    assert (info["device"], info["threads"], info["model"]) == ("cpu", 1, options.model)
    assert (info["torch"], info["dtype"]) == (torch.__version__, "float32")
