"""What a reward must offer, and the registry of rewards by the `type` of a recipe's [reward] table."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol

from actors.mistake import Mistake

if TYPE_CHECKING:
    import numpy as np

    from actors.messages import Prompt, Scores, TokenLogProbs

REWARDS: dict[str, str] = {
    "promptecho": "actors.reward.promptecho:PromptEcho",
}


class Reward(Protocol):
    """Scores the images of one prompt. It is frozen: the same images give the same bits again.

    Raises ValueError for a prompt that it cannot score. An image whose score is not a number gets NaN, never a substitute.
    """

    device: str
    """Where its model is, such as "cpu" or "cuda:0"."""
    dtype: str
    """In what it computes, such as "bfloat16"."""

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """One float per uint8 RGB image, higher is better."""

    def explain(self, images_KHWC: np.ndarray, prompt: Prompt) -> TokenLogProbs:
        """What each piece of the caption contributed."""


def load_reward(settings: dict[str, Any]) -> Reward:
    """The reward that `settings` (a recipe's [reward] table without the keys of its pool) asks for, loaded and frozen.

    Raises Mistake for an unknown type, an unknown key or a missing one, and for whatever the reward itself refuses.
    """
    options = dict(settings)
    kind = options.pop("type", None)
    if kind not in REWARDS:
        raise Mistake(f"reward.type = {kind!r}: there is {', '.join(map(repr, REWARDS))}")
    make = pkgutil.resolve_name(REWARDS[kind])
    parameters = inspect.signature(make).parameters
    for name in options:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(parameters)}"
            raise Mistake(f"reward.{name}: the reward {kind!r} has no such key; {hint}")
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in options]
    if missing:
        raise Mistake(f"reward.{missing[0]}: missing, and the reward {kind!r} has no default for it")
    reward: Reward = make(**options)
    return reward
