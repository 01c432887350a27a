"""The contract of every registered reward, and the registry."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.messages import Prompt
from actors.reward.kinds.promptecho import PromptEchoOptions
from actors.reward.kinds.registry import REWARDS
from actors.reward.options import RewardOptions
from actors.reward.reward import ExplainingReward, Reward

TEXT = {"main_title": ["SALE"], "subtitle": [], "selling_points": [], "other_text": []}
CAPTION = Prompt("0", "a red circle left of a blue square", extra={"text": TEXT})
EMPTY = Prompt("0", " ", extra={"text": TEXT})
LABELS = {"text_rendering": json.dumps(TEXT)}  # of rewards whose label is not the caption


@pytest.fixture(scope="module", params=sorted(REWARDS))
def options(request: pytest.FixtureRequest, keys: dict) -> RewardOptions:
    return REWARDS[request.param](**keys[request.param])


@pytest.fixture(scope="module")
def reward(options: RewardOptions) -> Reward:
    return options.load()


def draw(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 5])
def test_a_finite_float_per_image(reward: Reward, count: int):
    scores = reward.score(draw(count), CAPTION)
    assert len(scores.rewards_K) == count
    assert all(isinstance(value, float) and math.isfinite(value) for value in scores.rewards_K)
    assert all(len(values) == count for values in scores.metrics.values())
    assert scores.seconds > 0


def test_scores_travel_as_plain_python(reward: Reward):
    scores = reward.score(draw(2), CAPTION)
    assert b"torch" not in pickle.dumps(scores)
    assert b"numpy" not in pickle.dumps(scores)


def test_a_repeat_gives_the_same_bits(reward: Reward):
    first, again = reward.score(draw(4), CAPTION), reward.score(draw(4), CAPTION)
    assert (first.rewards_K, first.metrics) == (again.rewards_K, again.metrics)


def test_a_row_alone_equals_the_row_in_a_batch(reward: Reward):
    images = draw(4)
    alone = [reward.score(image[None], CAPTION).rewards_K[0] for image in images]
    assert reward.score(images, CAPTION).rewards_K == pytest.approx(alone, abs=1e-5)


def test_images_may_be_read_only_and_are_left_as_they_were(reward: Reward):
    images = draw(2)
    images.setflags(write=False)
    reward.score(images, CAPTION)
    assert np.array_equal(images, draw(2))


def test_an_explanation_has_a_number_for_each_piece_of_the_caption(options: RewardOptions, reward: ExplainingReward):
    assert options.explains == hasattr(reward, "explain")
    if not options.explains:
        return
    scores, explained = reward.explain(draw(3), CAPTION)
    assert scores.rewards_K == reward.score(draw(3), CAPTION).rewards_K
    assert "".join(explained.tokens) == LABELS.get(options.type, CAPTION.caption)
    assert explained.log_probs_KT.shape == (3, len(explained.tokens))
    assert explained.log_probs_KT.dtype == np.float32


def test_an_empty_caption_is_an_error_and_never_a_zero(options: RewardOptions, reward: Reward):
    if options.reads_caption:
        with pytest.raises(ValueError, match="empty"):
            reward.score(draw(1), EMPTY)
    else:
        assert reward.score(draw(1), EMPTY).rewards_K == reward.score(draw(1), CAPTION).rewards_K


def test_options_travel_as_plain_python_and_their_facts_are_of_their_own_keys(options: RewardOptions):
    assert b"torch" not in pickle.dumps(options)
    assert set(options.models) <= set(type(options).model_fields)
    assert options.on("cpu").where == "cpu"
    assert options.in_words() in {f"reward.type = {options.type!r}", f"reward.model = {options.judge!r}"}


def test_its_own_example_is_a_prompt_that_it_can_score(options: RewardOptions, reward: Reward):
    assert options.problem_of(options.example) == ""
    assert math.isfinite(reward.score(draw(1), options.example).rewards_K[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"image_pixels": 256}, "leave the key out"), ({"model": "no/such/folder"}, "no/such/folder")],
)
def test_what_only_a_worker_finds_is_an_error_that_says_what_to_do(tiny_llava: Path, change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PromptEchoOptions(**{"model": str(tiny_llava), **change}).load()


def test_the_registry_can_be_read_without_torch():
    code = "import actors.reward.kinds.registry, actors.reward.actor, actors.vlm.family, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
