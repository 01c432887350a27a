"""PromptEcho: an image's reward is how likely a frozen VLM, shown the image, finds the prompt as its description."""

from __future__ import annotations

import time
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from actors.messages import Prompt, Scores, TokenLogProbs
from actors.reward.options import VlmOptions

QUERY = "Describe this image in detail."


class EchoOptions(VlmOptions):
    """The keys of rewards that are the likelihood of a label as the answer to a query."""

    explains: ClassVar[bool] = True

    query: str = QUERY
    """What the VLM is asked."""
    reduction: Literal["mean", "sum"] = "mean"
    """The mean over the label's tokens, or their sum."""
    transform: Literal["none", "exp"] = "none"
    """The log-probability as it is, or its exponential, in (0, 1]."""
    include_eos: bool = False
    """Whether the end token counts as a label."""
    log_gain: bool = False
    """Whether to log as well how much likelier the image makes the label."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raises ValueError for the exponential of a sum."""
        if self.transform == "exp" and self.reduction == "sum":
            raise ValueError('reward.transform = "exp" of a sum is 0 for any real label: use reward.reduction = "mean"')
        return self

    @property
    def below_zero(self) -> bool:
        """A log-probability is."""
        return self.transform == "none"

    def label_of(self, prompt: Prompt) -> str:
        """The answer whose likelihood is the reward. Raises ValueError for a prompt that has none."""
        raise NotImplementedError

    def load(self) -> PromptEcho:
        """See `RewardOptions.load`."""
        return PromptEcho(self)


class PromptEchoOptions(EchoOptions):
    """How likely a frozen VLM finds the caption as the description of an image (docs/rewards/promptecho.md)."""

    type: Literal["promptecho"] = "promptecho"

    def label_of(self, prompt: Prompt) -> str:
        """The caption."""
        return prompt.caption

    def predicted(self, caption: int) -> int:
        """All tokens of the caption."""
        return caption


class PromptEcho:
    """R(X) = (1/T) sum_t log p(c_t | X, q, c_<t), in nats per token: the negative of the cross-entropy of label C after (X, q).

    `reduction` "sum" leaves out 1/T; `transform` "exp" gives exp(R), in (0, 1]; `include_eos` counts the end token as a label;
    `log_gain` also reports R minus the mean log p of C without any image. Figures beside the rewards: mean_log_prob, gain.
    Source: the README of roooobotx/prompt_echo, R_j = -L_CE(C | X_j, q). Mean, labels and end token are decided in
    docs/rewards/promptecho.md, where the sources leave them open.
    """

    def __init__(self, options: EchoOptions) -> None:
        self.options, self.vlm = options, options.load_vlm()
        self.device, self.dtype = str(self.vlm.device), str(self.vlm.lm_head.dtype).removeprefix("torch.")
        self._without_image: dict[str, float] = {}

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty label, or none."""
        return self.explain(images_KHWC, prompt)[0]

    def explain(self, images_KHWC: np.ndarray, prompt: Prompt) -> tuple[Scores, TokenLogProbs]:
        """The scores, and log p of each token of the label given each image, of which they are made."""
        start, label = time.perf_counter(), self.options.label_of(prompt)
        said = self._log_probs(images_KHWC, label)
        log_probs_KT = said.log_probs_KT.astype(np.float64)
        means_K = log_probs_KT.mean(axis=1)
        rewards_K = log_probs_KT.sum(axis=1) if self.options.reduction == "sum" else means_K
        if self.options.transform == "exp":
            rewards_K = np.exp(means_K)
        metrics = {"mean_log_prob": tuple(means_K.tolist())}
        if self.options.log_gain:
            metrics["gain"] = tuple((means_K - self.log_prob_without_image(label)).tolist())
        return Scores(tuple(rewards_K.tolist()), metrics, time.perf_counter() - start), said

    def log_prob_without_image(self, label: str) -> float:
        """The mean of log p(c_t | q, c_<t), with no image; computed once per label."""
        if label not in self._without_image:
            self._without_image[label] = float(self._log_probs(None, label).log_probs_KT.mean(dtype=np.float64))
        return self._without_image[label]

    def _log_probs(self, images_KHWC: np.ndarray | None, label: str) -> TokenLogProbs:
        from actors.vlm.likelihood import token_log_probs

        options = self.options
        return token_log_probs(self.vlm, images_KHWC, options.query, label, options.include_eos, options.chunk_tokens)
