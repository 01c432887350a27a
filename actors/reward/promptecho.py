"""PromptEcho: an image's reward is how likely a frozen VLM, shown the image, finds the prompt as its description."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from actors.device import pick_device, pick_dtype
from actors.messages import Prompt, Scores, TokenLogProbs
from actors.mistake import Mistake
from actors.vlm.family import load_vlm
from actors.vlm.likelihood import CHUNK_TOKENS, token_log_probs

QUERY = "Describe this image in detail."
CHOICES = {
    "reduction": ("mean", "sum"),
    "transform": ("none", "exp"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cpu", "cuda"),
}


class PromptEcho:
    """R(X) = (1/T) sum_t log p(c_t | X, q, c_<t), in nats per token: the negative of the cross-entropy of caption C after (X, q).

    `reduction` "sum" leaves out 1/T; `transform` "exp" gives exp(R), in (0, 1]; `include_eos` counts the end token as a label;
    `log_gain` also reports R minus the mean log p of C without any image; `image_pixels` is the budget to which the VLM shrinks
    images, the same for all (None: its processor's). Figures beside the rewards: mean_log_prob, gain.
    Source: the README of roooobotx/prompt_echo, R_j = -L_CE(C | X_j, q). Mean, labels and end token are decided in
    docs/rewards/promptecho.md, where the sources leave them open.
    """

    def __init__(
        self,
        model: str,
        query: str = QUERY,
        reduction: Literal["mean", "sum"] = "mean",
        transform: Literal["none", "exp"] = "none",
        include_eos: bool = False,
        log_gain: bool = False,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        chunk_tokens: int = CHUNK_TOKENS,
        image_pixels: int | None = None,
    ) -> None:
        given = {"reduction": reduction, "transform": transform, "dtype": dtype, "device": device}
        for name, value in given.items():
            if value not in CHOICES[name]:
                raise Mistake(f"reward.{name} = {value!r}: allowed are {', '.join(CHOICES[name])}")
        if reduction == "sum" and transform == "exp":
            raise Mistake(
                'reward.transform = "exp" of a sum is zero for any real caption: use reward.reduction = "mean"'
            )
        if chunk_tokens < 1:
            raise Mistake(f"reward.chunk_tokens = {chunk_tokens}: give 1 or more")
        place = pick_device(device)
        self.vlm = load_vlm(model, pick_dtype(dtype, place), place, image_pixels)
        self.device, self.dtype = str(self.vlm.device), str(self.vlm.lm_head.dtype).removeprefix("torch.")
        self.query, self.include_eos, self.chunk_tokens = query, include_eos, chunk_tokens
        self.reduction, self.transform, self.log_gain = reduction, transform, log_gain
        self._without_image: dict[str, float] = {}

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption."""
        start = time.perf_counter()
        log_probs_KT = self.explain(images_KHWC, prompt).log_probs_KT.astype(np.float64)
        means_K = log_probs_KT.mean(axis=1)
        rewards_K = log_probs_KT.sum(axis=1) if self.reduction == "sum" else means_K
        if self.transform == "exp":
            rewards_K = np.exp(means_K)
        metrics = {"mean_log_prob": tuple(means_K.tolist())}
        if self.log_gain:
            metrics["gain"] = tuple((means_K - self.log_prob_without_image(prompt.caption)).tolist())
        return Scores(tuple(rewards_K.tolist()), metrics, time.perf_counter() - start)

    def explain(self, images_KHWC: np.ndarray, prompt: Prompt) -> TokenLogProbs:
        """log p of each token of the caption given each image, as the reward saw it."""
        return token_log_probs(self.vlm, images_KHWC, self.query, prompt.caption, self.include_eos, self.chunk_tokens)

    def log_prob_without_image(self, caption: str) -> float:
        """The mean of log p(c_t | q, c_<t), with no image; computed once per caption."""
        if caption not in self._without_image:
            text_only = token_log_probs(self.vlm, None, self.query, caption, self.include_eos, self.chunk_tokens)
            self._without_image[caption] = float(text_only.log_probs_KT.mean(dtype=np.float64))
        return self._without_image[caption]
