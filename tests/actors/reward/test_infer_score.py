"""InferScore: what the VLM writes is the score, and what it does not write is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from actors.messages import Prompt
from actors.reward.kinds.infer_score import InferScore, InferScoreOptions, _seed
from toy.random_models.parrot import make_parrot

PROMPT = Prompt("7", "a red circle")
IMAGES = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
SHORT = {"max_tokens": 12, "rows": 4}


def parrot(folder: Path, text: str, **options: object) -> InferScore:
    return InferScoreOptions(model=str(make_parrot(folder / "parrot", text)), **SHORT, **options).load()


def test_the_reward_is_the_written_score_as_a_share_of_the_highest(tmp_path: Path) -> None:
    scores = parrot(tmp_path, "score 7").score(IMAGES, PROMPT)
    assert scores.rewards_K == (0.7, 0.7, 0.7)
    assert scores.metrics == {"tries": (1.0, 1.0, 1.0)}


def test_another_scale_is_another_share(tmp_path: Path) -> None:
    assert parrot(tmp_path, "score 4", highest=5.0).score(IMAGES, PROMPT).rewards_K == (0.8, 0.8, 0.8)


def test_where_no_answer_has_a_score_there_is_a_reason_and_no_reward(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no score stands in the answer"):
        parrot(tmp_path, "lovely").score(IMAGES, PROMPT)


def test_answers_are_drawn_again_until_one_has_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = parrot(tmp_path, "score 7", temperature=1.0, tries=3)
    asked: list[tuple[int, int]] = []

    def answers(images: list[np.ndarray], caption: str, attempt: int) -> list[str]:
        asked.append((attempt, len(images)))
        numbers = [next(n for n in range(3) if np.array_equal(IMAGES[n], image)) for image in images]
        return ["score 5" if number <= attempt else "no idea" for number in numbers]

    monkeypatch.setattr(reward, "_answers", answers)
    scores = reward.score(IMAGES, PROMPT)
    assert asked == [(0, 3), (1, 2), (2, 1)]
    assert scores.rewards_K == (0.5, 0.5, 0.5)
    assert scores.metrics["tries"] == (1.0, 2.0, 3.0)
    reward.options = reward.options.model_copy(update={"tries": 1})
    rewards = reward.score(IMAGES, PROMPT).rewards_K
    assert rewards[0] == 0.5
    assert [math.isnan(value) for value in rewards] == [False, True, True]


def test_a_drawn_answer_depends_on_image_caption_and_try_alone() -> None:
    seeds = {_seed(IMAGES[0], "a", 0), _seed(IMAGES[0], "a", 1), _seed(IMAGES[0], "b", 0), _seed(IMAGES[1], "a", 0)}
    assert len(seeds) == 4
    assert _seed(IMAGES[0].copy(), "a", 0) in seeds


def test_a_question_without_the_caption_is_refused() -> None:
    with pytest.raises(ValueError, match="where the caption belongs"):
        InferScoreOptions(model="none", question="How good is it?")
