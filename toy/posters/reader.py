"""The readers' course: judges of posters that tell their prompt, their label, a score, and yes or no."""

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from toy.chat import Chat, Turns, pixel_values, prefers_truth, token_weights
from toy.judge import SPECIAL, Plan, make_processor
from toy.posters import lessons
from toy.posters.tokens import captions, letters, make_tokenizer
from toy.posters.world import Poster, degrade, render
from toy.world import COLOURS

PLAN = Plan(steps=1500, first_stage=300, batch=48, constant=0.72, lowest=0.43, wrong_captions=0.0, text_layers=4)
VERDICT_WEIGHT = 6.0
EARLY = 60  # steps of the reader that is trained less
ANSWER_LENGTH = 32  # tokens: the longest label has 25


class Reading:
    """A `Course`: labels alone in the first stage, then everything. `cases`: of a category, by which it is judged."""

    def __init__(self, cases: int = 200) -> None:
        self.cases = cases
        self.processor = make_processor(make_tokenizer(SPECIAL, [*captions(), *lessons.texts()]))
        self.chat = Chat(self.processor)
        told = [*letters(), *(f" {colour}" for colour in COLOURS)]
        verdicts = ["Yes", "No", *(str(score) for score in range(lessons.HIGHEST + 1))]
        self._weights = token_weights(self.processor, {2.0: told, VERDICT_WEIGHT: verdicts})

    def weights(self, first_stage: bool) -> torch.Tensor:
        """See `Course`: what is seen counts more than how it is said, and a verdict, one token, as much as a label."""
        return self._weights

    def turns(self, first_stage: bool, plan: Plan, rng: np.random.Generator) -> Turns:
        """See `Course`."""
        tasks = rng.choice(list(lessons.SHARES), plan.batch, p=list(lessons.SHARES.values()))
        given = [lessons.turn("read" if first_stage else task, rng) for task in tasks]
        images = [drawn(turn.poster, rng, plan.bad_drawings) for turn in given]
        return Turns(np.stack(images), *map(list, zip(*(turn[1:] for turn in given), strict=True)))

    def passed(self, model: LlavaForConditionalGeneration) -> bool:
        """Whether in each category the true label is likelier than one with a wrong letter in 97 % of the images."""
        return min(self._prefers_truth(model, self.cases // 2).values()) >= 0.97

    def gates(self, model: LlavaForConditionalGeneration) -> dict[str, float]:
        """How often the truth is likelier than a label with a letter wrong, by category, on clean and bad drawings."""
        return self._prefers_truth(model, self.cases)

    def _prefers_truth(self, model: LlavaForConditionalGeneration, number: int) -> dict[str, float]:
        cases = lessons.hard_cases(number, drawn, np.random.default_rng(2))
        return {name: prefers_truth(model, self.chat, some, lessons.READ) for name, some in cases.items()}


def drawn(poster: Poster, rng: np.random.Generator, bad: float = 0.5) -> np.ndarray:
    """A poster, badly drawn with probability `bad`."""
    return degrade(poster, rng) if rng.random() < bad else render(poster, rng)


@torch.no_grad()
def say(model: LlavaForConditionalGeneration, chat: Chat, images_BHWC: np.ndarray, query: str) -> list[str]:
    """The likeliest answer about each image, token by token."""
    ids_BL = torch.tensor([chat.opening(query)] * len(images_BHWC))
    ids = model.generate(
        input_ids=ids_BL,
        attention_mask=torch.ones_like(ids_BL),
        pixel_values=pixel_values(images_BHWC),
        do_sample=False,
        max_new_tokens=ANSWER_LENGTH,
    )
    return chat.processor.tokenizer.batch_decode(ids[:, ids_BL.shape[1] :], skip_special_tokens=True)
