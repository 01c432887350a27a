"""VQAScore: how likely a vision-language model answers "Yes" when it is asked whether an image shows its caption."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from actors.messages import Prompt, Scores
from actors.mistake import Mistake
from actors.reward.options import VlmOptions
from actors.reward.question import Question, ask

QUESTION = 'Does this figure show "{caption}"? Please answer yes or no.'


class VqaScoreOptions(VlmOptions):
    """How likely a frozen VLM answers yes to a question about the caption (docs/rewards/vqa_score.md)."""

    type: Literal["vqa_score"] = "vqa_score"
    question: Question = QUESTION
    """What the VLM is asked; {caption} stands for the caption."""
    answer: str = "Yes"
    """The answer whose probability is the reward."""

    def predicted(self, caption: int) -> int:
        """The answer: at most a token for each of its letters."""
        return len(self.answer)

    def load(self) -> VqaScore:
        """See `RewardOptions.load`."""
        return VqaScore(self)


class VqaScore:
    """R(X) = p(answer | X, question(C)), in (0, 1]: the product of the probabilities of the answer's tokens, without an end token.

    Source: VQAScore (arXiv 2404.01291), P("Yes" | image, question). Its own code scores an encoder-decoder, whose "Yes" ends in an
    end token; here the answer alone counts, as for PromptEcho.
    """

    def __init__(self, options: VqaScoreOptions) -> None:
        self.options, self.vlm = options, options.load_vlm()
        self.device, self.dtype = str(self.vlm.device), str(self.vlm.lm_head.dtype).removeprefix("torch.")

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption, and for one with the text of a special token."""
        from actors.vlm.likelihood import token_log_probs

        start = time.perf_counter()
        question = ask(self.options.question, prompt.caption)
        try:
            found = token_log_probs(
                self.vlm, images_KHWC, question, self.options.answer, chunk_tokens=self.options.chunk_tokens
            )
        except Mistake as error:  # of this caption alone: it fails its group, not the run
            raise ValueError(str(error)) from error
        rewards_K = np.exp(found.log_probs_KT.astype(np.float64).sum(axis=1))
        return Scores(tuple(rewards_K.tolist()), seconds=time.perf_counter() - start)
