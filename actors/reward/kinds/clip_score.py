"""CLIP score: how near an image and its caption lie in the space of a CLIP or SigLIP model."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from actors.messages import Prompt, Scores
from actors.reward.options import DualEncoderOptions


class ClipScoreOptions(DualEncoderOptions):
    """The cosine of image and caption by CLIP or SigLIP (docs/rewards/clip_score.md)."""

    type: Literal["clip_score"] = "clip_score"
    scale: Literal["cosine", "logit"] = "cosine"
    """The cosine as it is, or the model's own logit of it, as PickScore has it."""

    def load(self) -> ClipScore:
        """See `RewardOptions.load`."""
        return ClipScore(self)


class ClipScore:
    """R(X) = <f(X), g(C)> of unit vectors, in [-1, 1]; `scale` "logit": exp(s) R(X) + b with the model's own s and b (CLIP: b = 0).

    Figures beside the rewards: caption_tokens_cut, the tokens of the caption beyond the model's length, which it does not see.
    Sources: CLIPScore (arXiv 2104.08718) without its factor 2.5 and its clipping at 0, which change no ranking above 0; PickScore
    (arXiv 2305.01569), whose score is the logit.
    """

    def __init__(self, options: ClipScoreOptions) -> None:
        self.options, self.encoder = options, options.load_encoder()
        self.device, self.dtype = str(self.encoder.device), self.encoder.dtype

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption."""
        start = time.perf_counter()
        text_D, cut = self.encoder.text(prompt.caption)
        scores_K = (self.encoder.images(images_KHWC) * text_D).sum(-1)
        if self.options.scale == "logit":
            scores_K = self.encoder.logits(scores_K)
        metrics = {"caption_tokens_cut": (float(cut),) * len(images_KHWC)}
        return Scores(tuple(scores_K.tolist()), metrics, time.perf_counter() - start)
