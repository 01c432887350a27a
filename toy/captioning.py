"""The judge's curriculum: captions of clean and of badly drawn scenes; relations first, until it distinguishes the four directions."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlavaForConditionalGeneration

from toy import captions
from toy.judge import QUERY, SPECIAL, Chat, Plan, Turns, make_processor, prefers_truth, token_weights
from toy.world import degrade, render

QUERY_WORDS = ("describe", "this", "image", "in", "detail", "the", "what", "is", "of", "picture", ".", "?", ",")


def make_tokenizer() -> Tokenizer:
    """A token for each word of the grammar."""
    words = dict.fromkeys((*SPECIAL, *QUERY_WORDS, *captions.WORDS))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


class Captioning:
    """A `Course`. `cases`: of a direction or category, by which it is judged."""

    def __init__(self, cases: int = 200) -> None:
        self.cases = cases
        self.processor = make_processor(make_tokenizer())
        self.chat = Chat(self.processor)

    def turns(self, first_stage: bool, plan: Plan, rng: np.random.Generator) -> Turns:
        """See `Course`."""
        images, texts = [], []
        for _ in range(plan.batch):
            scene, caption = captions.sample_relation(rng) if first_stage else captions.sample(rng)
            images.append(degrade(scene, rng) if rng.random() < plan.bad_drawings else render(scene, rng))
            texts.append(captions.one_word_wrong(caption, rng) if rng.random() < plan.wrong_captions else caption)
        return Turns(np.stack(images), [QUERY] * plan.batch, texts)

    def weights(self, first_stage: bool) -> torch.Tensor:
        """See `Course`: relation words count more."""
        return token_weights(self.processor, {5.0 if first_stage else 2.0: list(captions.RELATION_WORDS)})

    def passed(self, model: LlavaForConditionalGeneration) -> bool:
        """Whether each true relation is likelier than its opposite in 97 % of the images."""
        asked = captions.flip_cases(self.cases).values()
        return min(prefers_truth(model, self.chat, cases) for cases in asked) >= 0.97

    def gates(self, model: LlavaForConditionalGeneration) -> dict[str, float]:
        """How often the truth beats a hard negative, by direction and by category, on clean and bad drawings."""
        cases = captions.flip_cases(self.cases) | captions.hard_cases(self.cases)
        return {name: prefers_truth(model, self.chat, some) for name, some in cases.items()}
