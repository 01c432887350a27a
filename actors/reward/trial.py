"""What a reward worker tries when it starts, so that a mistake is told before the run begins; and what rewards and checkers must give."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from actors.messages import Prompt, Scores, ScoreTrial
from actors.mistake import UNUSABLE, Mistake
from actors.reward.reward import Reward

Checker = Callable[[np.ndarray, dict], dict[str, list[float]]]


def try_reward(reward: Reward, example: Prompt, name: str, trial: ScoreTrial) -> None:
    """Scores two grey images of a prompt. Raises Mistake if the reward cannot, or gives no numbers. `name`: what the message calls it."""
    images_KHWC = np.repeat(grey(trial), 2, axis=0)
    try:
        scores = reward.score(images_KHWC, example)
    except UNUSABLE as error:
        raise Mistake(f"{name} cannot score an image: {error}") from error
    if problem := problem_of_scores(scores, len(images_KHWC)):
        raise Mistake(f"{name} {problem}")
    if not all(map(math.isfinite, scores.rewards_K)):
        score = next(score for score in scores.rewards_K if not math.isfinite(score))
        raise Mistake(f"{name} scores an image with {score}: its weights are damaged, or they overflow in this dtype")


def try_checker(checker: Checker, name: str, trial: ScoreTrial) -> None:
    """Checks a grey image of a held-out prompt. Raises Mistake if the checker raises, or gives anything but one number for each figure."""
    if trial.prompt is None:
        return
    try:
        found = checker(grey(trial), fields_of(trial.prompt))
    except Exception as error:
        raise Mistake(
            f"heldout.checker = {name!r} raised {type(error).__name__}: {error} for a grey image of the prompt {trial.prompt.id!r}. It is "
            "called with (images uint8 [K, height, width, 3], the prompt's fields)"
        ) from error
    if problem := problem_of(found, 1):
        raise Mistake(f"heldout.checker = {name!r} {problem}")


def problem_of_scores(scores: Scores, count: int) -> str:
    """What is wrong with what a reward gave for `count` images, whatever the numbers are; empty if nothing is."""
    for name, values in {"rewards_K": scores.rewards_K, **scores.metrics}.items():
        numbers = isinstance(values, list | tuple) and all(isinstance(value, Real | np.number) for value in values)
        if not numbers or len(values) != count:
            return f"gave {name} = {values!r:.100} for {count} images: a tuple of a number for each is expected"
    return ""


def problem_of(found: Any, count: int) -> str:
    """What is wrong with what a checker gave for `count` images; empty if nothing is."""
    wanted = f"give a dict of figures by name, each a list of {count} numbers"
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        return f"gave {found!r:.100}: {wanted}"
    for name, values in found.items():
        if not isinstance(values, list | tuple | np.ndarray) or len(values) != count:
            return f"gave {name} = {values!r:.100}: {wanted}"
        if not all(isinstance(value, Real | np.number) and math.isfinite(value) for value in values):
            return f"gave {name} = {values!r:.100}, which are not all finite numbers: {wanted}"
    return ""


def fields_of(prompt: Prompt) -> dict[str, Any]:
    """The fields of a prompt that a checker gets."""
    return {**prompt.extra, "id": prompt.id, "caption": prompt.caption, "category": prompt.category}


def grey(trial: ScoreTrial) -> np.ndarray:
    """One image of the trial's size, uint8 [1, H, W, 3]."""
    return np.full((1, trial.height, trial.width, 3), 128, np.uint8)
