"""InferScore: a frozen VLM is shown the image and its prompt, and writes a score; the reward is what it wrote."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from actors.answers import NoAnswer, score_in
from actors.messages import Prompt, Scores, Turn, WriteRequest
from actors.options import Count, NotNegative
from actors.reward.options import VlmOptions
from actors.reward.question import Question, ask
from actors.seeds import seed_of
from actors.vlm.options import Decoding

QUESTION = (
    'How well does this image show the text "{caption}"? Look at objects, numbers, colours and positions. Answer in JSON: {"reasoning": '
    'your reasons in a few words, "score": a whole number from 0, nothing of it, to 10, all of it}.'
)


class InferScoreOptions(VlmOptions):
    """The score that a frozen VLM writes for an image and its caption (docs/rewards/infer_score.md)."""

    type: Literal["infer_score"] = "infer_score"
    question: Question = QUESTION
    """What the VLM is asked; {caption} stands for the caption."""
    highest: Annotated[float, Field(gt=0)] = 10.0
    """The best score that is asked for; the reward is the score's share of it."""
    temperature: NotNegative = 0.0
    """0: the likeliest answer, always; above: drawn, by a seed of image, question and try."""
    tries: Count = 3
    """How often an answer is drawn until one has a score; with temperature 0 once, since another would be the same."""
    max_tokens: Count = 256
    """Of an answer, at most."""
    rows: Count = 8
    """Answers that are written side by side."""

    @property
    def decoding(self) -> Decoding:
        """How an answer is written."""
        return Decoding(temperature=self.temperature, max_tokens=self.max_tokens)

    def predicted(self, caption: int) -> int:
        """A token at a time."""
        return 1

    def load(self) -> InferScore:
        """See `RewardOptions.load`."""
        return InferScore(self)


class InferScore:
    """R(X) = score / highest, in [0, 1], where the VLM writes the score as an answer to question(C); NaN if no answer has one.

    Source: the baseline that PromptEcho's article compares with; wording, scale and temperature are ours, as none are published. An
    answer that cannot be read is no score: it never becomes 0. metrics: `tries`, answers that were asked for.
    """

    def __init__(self, options: InferScoreOptions) -> None:
        self.options, self.vlm = options, options.load_writing()
        self.device, self.dtype = str(self.vlm.device), str(self.vlm.lm_head.dtype).removeprefix("torch.")

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`. Raises ValueError for an empty caption, and where no answer at all could be read."""
        start = time.perf_counter()
        question = ask(self.options.question, prompt.caption)
        rewards_K, tries_K, problem = [math.nan] * len(images_KHWC), [0] * len(images_KHWC), ""
        left = list(range(len(images_KHWC)))
        for attempt in range(self.options.tries if self.options.temperature else 1):
            answers = self._answers([images_KHWC[number] for number in left], question, attempt)
            for number, answer in zip(left, answers, strict=True):
                tries_K[number] += 1
                try:
                    rewards_K[number] = score_in(answer, self.options.highest) / self.options.highest
                except NoAnswer as error:
                    problem = str(error)
            left = [number for number in left if math.isnan(rewards_K[number])]
            if not left:
                break
        if len(left) == len(images_KHWC):
            raise ValueError(problem)
        return Scores(tuple(rewards_K), {"tries": tuple(map(float, tries_K))}, time.perf_counter() - start)

    def _answers(self, images: Sequence[np.ndarray], question: str, attempt: int) -> list[str]:
        """What the VLM writes of each image. Raises ValueError for a question that it cannot be asked."""
        from actors.vlm.generate import write

        requests = [
            WriteRequest((Turn("user", (number, question)),), _seed(image_HWC, question, attempt))
            for number, image_HWC in enumerate(images)
        ]
        written = write(self.vlm, requests, images, self.options.decoding, self.options.rows)
        if problem := next((one.reason for one in written if one.text is None), ""):
            raise ValueError(problem)
        return [one.text or "" for one in written]


def _seed(image_HWC: np.ndarray, question: str, attempt: int) -> int:
    """Of the image itself: the same image gets the same score again, wherever and beside whatever it is judged."""
    sha256 = hashlib.sha256(image_HWC.tobytes()).hexdigest()
    return seed_of("infer_score", sha256, question, attempt)
