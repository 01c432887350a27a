"""PromptEcho and VQAScore by a VLM behind a server: the same questions, asked over the network."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from actors.messages import Prompt, Scores, TokenLogProbs, Turn, WriteRequest
from actors.reward.kinds.promptecho import QUERY
from actors.reward.kinds.vqa_score import QUESTION
from actors.reward.options import RewardOptions
from actors.reward.question import Question, ask
from actors.server.options import ServerTable

if TYPE_CHECKING:
    from actors.vlm.remote import RemoteVlm


class RemotePromptEchoOptions(ServerTable, RewardOptions):
    """PromptEcho by a VLM behind a server that tells the log-probabilities of a prompt (docs/rewards/remote_promptecho.md)."""

    explains: ClassVar[bool] = True

    type: Literal["remote_promptecho"] = "remote_promptecho"
    query: str = QUERY
    """What the VLM is asked."""
    reduction: Literal["mean", "sum"] = "mean"
    """The mean over the caption's tokens, or their sum."""

    @property
    def below_zero(self) -> bool:
        """A log-probability is."""
        return True

    def load(self) -> RemotePromptEcho:
        """See `RewardOptions.load`."""
        return RemotePromptEcho(self)


class RemoteVqaScoreOptions(ServerTable, RewardOptions):
    """How likely a VLM behind a server answers yes to a question about the caption (docs/rewards/remote_vqa_score.md)."""

    type: Literal["remote_vqa_score"] = "remote_vqa_score"
    question: Question = QUESTION
    """What the VLM is asked; {caption} stands for the caption."""
    answer: str = "Yes"
    """The answer whose probability is the reward: a token, in any case."""

    def load(self) -> RemoteVqaScore:
        """See `RewardOptions.load`."""
        return RemoteVqaScore(self)


class Remote:
    """A reward that a server computes."""

    device, dtype = "cpu", "float32"  # of the worker, which computes nothing

    def __init__(self, options: ServerTable) -> None:
        from actors.vlm.remote import RemoteVlm

        self.vlm: RemoteVlm = RemoteVlm(options)


class RemotePromptEcho(Remote):
    """R(X) = (1/T) sum_t log p(c_t | X, q, c_<t), as `PromptEcho`, with the server's tokens."""

    def __init__(self, options: RemotePromptEchoOptions) -> None:
        super().__init__(options)
        self.options = options

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption, and for an image of which the server told nothing."""
        return self.explain(images_KHWC, prompt)[0]

    def explain(self, images_KHWC: np.ndarray, prompt: Prompt) -> tuple[Scores, TokenLogProbs]:
        """See `ExplainingReward.explain`."""
        start = time.perf_counter()
        verdicts = self.vlm.echo(list(images_KHWC), self.options.query, prompt.caption)
        rewards_K = _told([(verdict.reward, verdict.reason) for verdict in verdicts])
        if self.options.reduction == "sum":
            rewards_K = tuple(math.fsum(verdict.log_probs) for verdict in verdicts)
        said = TokenLogProbs(verdicts[0].tokens, np.array([verdict.log_probs for verdict in verdicts], np.float32))
        return Scores(rewards_K, seconds=time.perf_counter() - start), said


class RemoteVqaScore(Remote):
    """R(X) = p(answer | X, question(C)), summed over the spellings of the answer among the tokens that the server lists."""

    def __init__(self, options: RemoteVqaScoreOptions) -> None:
        super().__init__(options)
        self.options = options

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption, and for an image of which the server told too little."""
        start = time.perf_counter()
        question = ask(self.options.question, prompt.caption)
        asked = [WriteRequest((Turn("user", (number, question)),)) for number in range(len(images_KHWC))]
        found = self.vlm.chances(asked, list(images_KHWC), self.options.answer)
        rewards_K = _told([(chance.probability, chance.reason) for chance in found])
        return Scores(rewards_K, seconds=time.perf_counter() - start)


def _told(found: Sequence[tuple[float | None, str]]) -> tuple[float, ...]:
    """The figures. Raises ValueError with the first reason if one is missing: the task is done again, or its group left out."""
    missing = [reason for figure, reason in found if figure is None]
    if missing:
        raise ValueError(f"{len(missing)} of {len(found)} images have no score: {missing[0]}")
    return tuple(figure for figure, _ in found if figure is not None)
