"""Turns of a chat with a tiny VLM: an image, a query and an answer as tokens, and how likely the answer is.

Axes: B images, L tokens, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from toy.world import GRID

QUERY = "Describe this image in detail."


class Turns(NamedTuple):
    """Images uint8 [B, H, W, 3], what is asked about each, and what is answered.

    `told`, if it is given, says of each row whether its query is learned too: it holds what is true of its image.
    """

    images_BHWC: np.ndarray
    queries: list[str]
    answers: list[str]
    told: list[bool] | None = None


class Chat:
    """Lays out (image, query, answer) as tokens, as a scorer does: chat to the assistant's turn, then the answer."""

    def __init__(self, processor: LlavaProcessor):
        self.processor = processor
        self._openings: dict[str, list[int]] = {}

    def opening(self, query: str = QUERY) -> list[int]:
        """The tokens up to the answer; kept for each query."""
        if query not in self._openings:
            content = [{"type": "image"}, {"type": "text", "text": query}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            text = text.replace(self.processor.image_token, self.processor.image_token * GRID * GRID)
            self._openings[query] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return self._openings[query]

    def lay_out(self, queries: list[str], answers: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels, int64 [B, L]; labels are -100 except on the answers and their end tokens."""
        tokenizer = self.processor.tokenizer
        openings = [self.opening(query) for query in queries]
        said = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(answers, add_special_tokens=False).input_ids]
        length = max(len(opening) + len(answer) for opening, answer in zip(openings, said, strict=True))
        ids_BL = torch.full((len(said), length), tokenizer.pad_token_id)
        labels_BL = torch.full((len(said), length), -100)
        for row, (opening, answer) in enumerate(zip(openings, said, strict=True)):
            span = slice(len(opening), len(opening) + len(answer))
            ids_BL[row, : len(opening)] = torch.tensor(opening)
            ids_BL[row, span] = labels_BL[row, span] = torch.tensor(answer)
        return ids_BL, labels_BL

    def without_special(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """The ids as labels: -100 for special tokens but the end."""
        tokenizer = self.processor.tokenizer
        special = [index for index in tokenizer.all_special_ids if index != tokenizer.eos_token_id]
        return ids_BL.masked_fill(torch.isin(ids_BL, torch.tensor(special)), -100)

    def log_probs(self, model: LlavaForConditionalGeneration, turns: Turns) -> torch.Tensor:
        """The mean log-probability of each answer's tokens, without the end token: float32 [B]."""
        ids_BL, labels_BL = self.lay_out(turns.queries, turns.answers)
        labels_BL[labels_BL == self.processor.tokenizer.eos_token_id] = -100
        with torch.no_grad():
            logits_BLV = model(input_ids=ids_BL, pixel_values=pixel_values(turns.images_BHWC)).logits
        losses_BL = torch.nn.functional.cross_entropy(
            logits_BLV[:, :-1].mT, labels_BL[:, 1:], reduction="none", ignore_index=-100
        )
        return -losses_BL.sum(1) / (labels_BL[:, 1:] >= 0).sum(1)


def pixel_values(images_BHWC: np.ndarray) -> torch.Tensor:
    """What the processor makes of uint8 images of the model's own size: float32 [B, 3, H, W]."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float() / 127.5


def token_weights(processor: LlavaProcessor, groups: dict[float, list[str]]) -> torch.Tensor:
    """1 for each token but those that are listed with another weight: float32 [V]."""
    weights_V = torch.ones(len(processor.tokenizer))
    for weight, tokens in groups.items():
        weights_V[processor.tokenizer.convert_tokens_to_ids(tokens)] = weight
    return weights_V


def prefers_truth(
    model: LlavaForConditionalGeneration, chat: Chat, cases: list[tuple[np.ndarray, str, str]], query: str = QUERY
) -> float:
    """The share of (image, true answer, false answer) in which the true answer's mean log-probability is higher."""
    images_BHWC, queries = np.stack([image for image, _, _ in cases]), [query] * len(cases)
    true_B = chat.log_probs(model, Turns(images_BHWC, queries, [truth for _, truth, _ in cases]))
    false_B = chat.log_probs(model, Turns(images_BHWC, queries, [false for _, _, false in cases]))
    return (true_B > false_B).float().mean().item()
