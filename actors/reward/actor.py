"""The reward worker as an actor: a thin shell around a `Reward` and a held-out checker, importable without torch."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.messages import Prompt, Scores, TokenLogProbs
from actors.process import prepare

if TYPE_CHECKING:
    import numpy as np


class RewardActor:
    """Scores the images of a prompt; for held-out prompts a checker looks at them as well, and its figures go apart.

    `settings` is the recipe's [reward] table without the pool's keys. `checker` names a function "module:function" that is called with
    (images_KHWC, {"id", "caption", "category", and the prompt's other fields}) and returns K floats by name.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        checker: str | None = None,
        num_threads: int | None = None,
        gpu_share: float = 0.0,
    ) -> None:
        prepare(num_threads, gpu_share)
        from actors.reward.reward import load_reward

        self.model = settings.get("model")
        self.reward = load_reward(settings)
        self.checker: Callable[[np.ndarray, dict], dict[str, list[float]]] | None
        self.checker = pkgutil.resolve_name(checker) if checker else None

    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        """See `Reward.score`."""
        return self.reward.score(images_KHWC, prompt)

    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        """What the checker says of each image; nothing without a checker."""
        if self.checker is None:
            return {}
        fields = {"id": prompt.id, "caption": prompt.caption, "category": prompt.category, **prompt.extra}
        return self.checker(images_KHWC, fields)

    def evaluate(self, prompt: Prompt, images_KHWC: np.ndarray) -> tuple[Scores, dict[str, list[float]]]:
        """(scores, what the checker says): two returns, so that a driver can read the first alone."""
        return self.score(prompt, images_KHWC), self.check(prompt, images_KHWC)

    def explain(self, prompt: Prompt, images_KHWC: np.ndarray) -> TokenLogProbs:
        """See `Reward.explain`."""
        return self.reward.explain(images_KHWC, prompt)

    def info(self) -> dict[str, Any]:
        """Where this worker runs, and on what."""
        import torch
        import transformers

        versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
        where = {"pid": os.getpid(), "device": self.reward.device, "threads": torch.get_num_threads()}
        return {**where, "model": self.model, "versions": versions}
