"""The workers that judge as actors: thin shells around a `Reward` and a held-out checker, importable without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from actors.messages import Prompt, Scores, ScoreTrial, TokenLogProbs, Verdict
from actors.process import Process, leaves_room, prepare
from actors.reward.checker import Checker

if TYPE_CHECKING:
    import numpy as np

    from actors.reward.options import RewardOptions
    from actors.reward.reward import ExplainingReward


class RewardActor:
    """Scores the images of a prompt; for held-out prompts a checker looks at them as well, and its figures go apart.

    `options` are the recipe's [reward] table without the pool's keys, `checker` names a function (see `Checker`). `trial` is tried
    before the first task; `pool` is what messages call the table. Raises Mistake for what can be neither loaded nor used.
    """

    def __init__(
        self,
        process: Process,
        options: RewardOptions,
        checker: str | None = None,
        trial: ScoreTrial | None = None,
        pool: str = "reward",
    ) -> None:
        device = prepare(process, options.where)
        from actors.reward.trial import try_reward

        self.model, self.reads_caption = options.judge, options.reads_caption
        self.checker = Checker(checker, trial) if checker else None
        self.reward = options.on(device).load()
        if trial:
            try_reward(self.reward, options.example, options.in_words(pool), trial)

    @leaves_room
    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        """See `Reward.score`. Raises ValueError for anything but K numbers, and K for each metric."""
        from actors.reward.trial import problem_of_scores

        scores = self.reward.score(images_KHWC, prompt)
        if problem := problem_of_scores(scores, len(images_KHWC)):
            raise ValueError(f"the reward {problem}")
        return scores

    @leaves_room
    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        """See `Checker.check`; nothing without a checker."""
        return self.checker.check(prompt, images_KHWC) if self.checker else {}

    def evaluate(self, prompt: Prompt, images_KHWC: np.ndarray) -> tuple[Scores, dict[str, list[float]]]:
        """(scores, what the checker says): two returns, so that a driver can read the first alone."""
        return self.score(prompt, images_KHWC), self.check(prompt, images_KHWC)

    @leaves_room
    def judge(self, prompt: Prompt, image_KHWC: np.ndarray, tokens: bool) -> Verdict:
        """Of one image (K = 1). What the reward cannot score has no score, but a reason: other rewards may know one."""
        if self.reads_caption and not prompt.caption.strip():
            return Verdict(None, "there is no caption")
        try:
            if tokens:
                scores, said = cast("ExplainingReward", self.reward).explain(image_KHWC, prompt)
            else:
                scores, said = self.reward.score(image_KHWC, prompt), None
        except ValueError as error:
            return Verdict(None, str(error))
        (reward,) = scores.rewards_K
        if not math.isfinite(reward):
            return Verdict(None, f"the score is {reward}")
        return Verdict(reward, "", said.tokens, tuple(said.log_probs_KT[0].tolist())) if said else Verdict(reward)

    def judge_each(
        self, asked: Sequence[tuple[Prompt, int]], tokens: bool, *read: Sequence[np.ndarray | None]
    ) -> tuple[Verdict, ...]:
        """`judge` of several: each is a prompt, and where its image, uint8 [H, W, 3], is among all that were `read`."""
        images = [image_HWC for batch in read for image_HWC in batch]
        return tuple(self.judge(prompt, cast("np.ndarray", images[number])[None], tokens) for prompt, number in asked)

    @leaves_room
    def explain(self, prompt: Prompt, images_KHWC: np.ndarray) -> TokenLogProbs:
        """See `ExplainingReward.explain`: only for rewards whose options say that they explain."""
        return cast("ExplainingReward", self.reward).explain(images_KHWC, prompt)[1]

    def info(self) -> dict[str, Any]:
        """Where and how this worker runs, and on what."""
        import torch
        import transformers

        from actors.device import where

        here = where(torch.device(self.reward.device), getattr(torch, self.reward.dtype))
        return {**here, "model": self.model, "transformers": transformers.__version__}


class CheckerActor:
    """The checker alone, beside workers that score."""

    def __init__(self, name: str, trial: ScoreTrial | None = None) -> None:
        """See `Checker`."""
        self.checker = Checker(name, trial)

    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        """See `Checker.check`."""
        return self.checker.check(prompt, images_KHWC)
