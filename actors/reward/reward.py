"""What a reward must offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from actors.messages import Prompt, Scores, TokenLogProbs


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


@runtime_checkable
class ExplainingReward(Reward, Protocol):
    """A reward whose options say `explains`."""

    def explain(self, images_KHWC: np.ndarray, prompt: Prompt) -> tuple[Scores, TokenLogProbs]:
        """What `score` gives, and what each piece of the caption contributed to it: both of one pass."""
