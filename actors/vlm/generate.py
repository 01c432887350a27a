"""Text that a frozen VLM writes. A row's bytes depend on its chat, its images and its seed: on no other row, nor on its place among them.

How that is had (docs/decisions/0029-writing-row-by-row.md): each prompt is read alone, in its own shape. Then `rows` of them go on
together, always so many (what is missing is filled up), whose caches are padded on the left to a length that each of them would have
by itself. What a row is multiplied with, and in which shapes, is then the same whoever is beside it. A row draws by the random stream
of its own seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from actors.device import to_host
from actors.messages import WriteRequest, Written
from actors.seeds import stream_of
from actors.vlm.frozen import FrozenVlm
from actors.vlm.likelihood import NO_NUMBERS, logits_of
from actors.vlm.options import Decoding

SHORTEST = 64  # positions of a cache
ROW_BY_ROW = "batched_mm"  # of transformers' ways to compute experts, the one in which rows share no product


@dataclass(frozen=True)
class Read:
    """A prompt that was read: keys and values of each layer [1, heads, L, D], the last state [1, D], where the next token stands."""

    layers: list[tuple[Tensor, Tensor]]
    state_1D: Tensor
    position: int

    @property
    def length(self) -> int:
        """L."""
        return self.layers[0][0].shape[2]


@torch.inference_mode()
def write(
    vlm: FrozenVlm, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], how: Decoding, rows: int
) -> tuple[Written, ...]:
    """A text for each request, in order. `images` are uint8 RGB [H, W, 3] of any sizes, to which the requests refer by number.

    `rows` of them are written at once; another number may move a text where two tokens are as likely up to rounding.
    What cannot be written (too long, a special token's text, no numbers) has a reason instead of a text.
    """
    prompts: dict[int, dict[str, Tensor]] = {}
    written: dict[int, Written] = {}
    for number, request in enumerate(requests):
        try:
            prompts[number] = _prompt(vlm, request, images, how.max_tokens)
        except ValueError as error:
            written[number] = Written(None, str(error))
    if how.beams > 1:
        written |= {number: _best_of_beams(vlm, prompt, how) for number, prompt in prompts.items()}
        prompts = {}
    for numbers in _passes(prompts, rows):
        seeds = [requests[number].seed for number in numbers]
        texts = _write_rows(vlm, [prompts[number] for number in numbers], seeds, how, rows)
        written |= zip(numbers, texts, strict=True)
    return tuple(written[number] for number in range(len(requests)))


def choose(logits_BV: Tensor, how: Decoding, uniforms_B: np.ndarray) -> Tensor:
    """A token for each row, int64 [B] on the host, by float32 logits and a float64 in [0, 1) each.

    With a temperature: where the cumulated p = softmax(logits / temperature) passes that number, in float64; with top_p among the fewest
    likeliest tokens alone whose p add up to it (arXiv 1904.09751). On the host, since torch sums up on a GPU in any order.
    """
    if not how.temperature:
        return to_host(logits_BV.argmax(-1))
    p_BV, order_BV = (to_host(logits_BV).double() / how.temperature).softmax(-1), None
    if how.top_p < 1:
        p_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
    sums_BV = p_BV.cumsum(-1)
    last_B1 = (sums_BV - p_BV < how.top_p).sum(-1, keepdim=True) - 1
    wanted_B1 = torch.from_numpy(uniforms_B)[:, None] * sums_BV.gather(-1, last_B1)
    picked_B1 = torch.searchsorted(sums_BV, wanted_B1, right=True).minimum(last_B1)
    return (picked_B1 if order_BV is None else order_BV.gather(-1, picked_B1))[:, 0]


def _prompt(vlm: FrozenVlm, request: WriteRequest, images: Sequence[np.ndarray], max_tokens: int) -> dict[str, Tensor]:
    """Raises ValueError for a chat that cannot be written, or leaves no room for `max_tokens`."""
    prompt = vlm.prompt(request.turns, images)
    length = prompt["input_ids"].shape[1]
    if length + max_tokens > vlm.context:
        raise ValueError(
            f"{length} tokens of chat and images and writer.max_tokens = {max_tokens} exceed this VLM's {vlm.context}"
        )
    return prompt


def _read(vlm: FrozenVlm, prompt: dict[str, Tensor]) -> Read:
    cache, keywords = DynamicCache(config=vlm.model.config), vlm.reading(prompt)
    states_1LD = vlm.model.model(**keywords, use_cache=True, cache=cache).last_hidden_state
    positions = keywords.get("position_ids")
    position = prompt["input_ids"].shape[1] if positions is None else int(positions.max()) + 1
    return Read([(layer.keys, layer.values) for layer in cache.layers], states_1LD[:, -1], position)


def _passes(prompts: dict[int, dict[str, Tensor]], rows: int) -> Iterator[list[int]]:
    """Numbers of prompts that go on together: of one length of caches, `rows` at most."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in prompts.items():
        by_length[_cache_length(prompt["input_ids"].shape[1])].append(number)
    for numbers in by_length.values():
        yield from (numbers[first : first + rows] for first in range(0, len(numbers), rows))


def _cache_length(length: int) -> int:
    """Of a prompt of so many tokens: of one up to 25 % longer, so that prompts of nearly one length go together."""
    unit = max(SHORTEST, 1 << (length - 1).bit_length() - 3)
    return -(-length // unit) * unit


class _Layer(DynamicLayer):
    """The cache of a layer, with room for tokens to come, so that nothing is copied when one does."""

    def __init__(self, read: Sequence[tuple[Tensor, Tensor]], length: int, more: int) -> None:
        """Of keys and values of several caches, padded on the left to `length`."""
        super().__init__()
        self.rooms = [
            torch.cat([pad(part, (0, 0, length - part.shape[2], more)) for part in parts])
            for parts in zip(*read, strict=True)
        ]
        self.is_initialized, self.end = True, length
        self.keys, self.values = (room[:, :, :length] for room in self.rooms)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """See `DynamicLayer.update`."""
        start, self.end = self.end, self.end + key_states.shape[2]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start : self.end] = new
        self.keys, self.values = (room[:, :, : self.end] for room in self.rooms)
        return self.keys, self.values


class _Together:
    """Rows that go on side by side, from prompts of one length of caches."""

    def __init__(self, vlm: FrozenVlm, read: Sequence[Read], more: int) -> None:
        self.length, self.steps = _cache_length(read[0].length), 0
        layers = [
            _Layer([one.layers[layer] for one in read], self.length, more) for layer in range(len(read[0].layers))
        ]
        self.cache, self.decoder, self.lm_head = Cache(layers=layers), vlm.model.get_decoder(), vlm.lm_head
        first_B1 = torch.tensor([[self.length - one.length] for one in read])
        self.seen_B11S = (torch.arange(self.length + more) >= first_B1)[:, None, None].to(vlm.device)
        self.positions_B1 = torch.tensor([[one.position] for one in read], device=vlm.device)
        self.states_BD = torch.cat([one.state_1D for one in read])

    def logits(self) -> Tensor:
        """Of the next tokens, float32 [B, V]."""
        return logits_of(self.states_BD, self.lm_head)

    def go_on(self, ids_B: Tensor) -> None:
        """Reads a token of each row."""
        self.states_BD = self.decoder(
            input_ids=ids_B[:, None].to(self.states_BD.device),
            attention_mask=self.seen_B11S[..., : self.length + self.steps + 1],
            position_ids=self.positions_B1 + self.steps,
            cache=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.steps += 1


def _write_rows(
    vlm: FrozenVlm, prompts: list[dict[str, Tensor]], seeds: list[int], how: Decoding, rows: int
) -> list[Written]:
    """Of prompts of one length of caches, `rows` at most."""
    count, missing = len(prompts), rows - len(prompts)
    read = [_read(vlm, prompt) for prompt in prompts]
    together = _Together(vlm, read + read[:1] * missing, how.max_tokens)
    uniforms_BT = np.stack([stream_of(seed).random(how.max_tokens) for seed in seeds + seeds[:1] * missing])
    with _rows_apart(vlm.model):
        ids_BT, broken_B = _draw(together, uniforms_BT, torch.tensor(vlm.stops), torch.arange(rows) >= count, how)
    found = zip(ids_BT[:count].tolist(), broken_B[:count].tolist(), strict=True)
    return [Written(None, NO_NUMBERS) if broken else _text(vlm, ids) for ids, broken in found]


def _draw(
    together: _Together, uniforms_BT: np.ndarray, stops: Tensor, done_B: Tensor, how: Decoding
) -> tuple[Tensor, Tensor]:
    """The tokens of all rows until each has ended, int64 [B, T]; and in which of them logits were no numbers, bool [B]."""
    written: list[Tensor] = []
    finite_B = torch.ones_like(done_B)
    for step in range(how.max_tokens):
        if step:
            together.go_on(written[-1])
        logits_BV = together.logits()
        finite_B &= to_host(logits_BV.sum(-1).isfinite())
        written.append(choose(logits_BV if finite_B.all() else logits_BV.nan_to_num(), how, uniforms_BT[:, step]))
        done_B = done_B | torch.isin(written[-1], stops)
        if done_B.all():
            break
    return torch.stack(written, 1), ~finite_B


def _text(vlm: FrozenVlm, ids: list[int]) -> Written:
    """Of ids up to the first that ends a text."""
    end = next((place for place, token in enumerate(ids) if token in vlm.stops), None)
    return Written(vlm.chat.text(ids[:end]), cut=end is None, tokens=len(ids[:end]))


def _best_of_beams(vlm: FrozenVlm, prompt: dict[str, Tensor], how: Decoding) -> Written:
    """By transformers' own search, which follows the beams of one row."""
    with vlm.as_it_comes():
        found = vlm.model.generate(
            **prompt,
            attention_mask=torch.ones_like(prompt["input_ids"]),
            num_beams=how.beams,
            max_new_tokens=how.max_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    if not found.sequences_scores.isfinite().all():
        return Written(None, NO_NUMBERS)
    return _text(vlm, found.sequences[0, prompt["input_ids"].shape[1] :].tolist())


@contextmanager
def _rows_apart(model: Any) -> Iterator[None]:
    """Within it a mixture of experts computes each row with its own experts alone."""
    config = model.config.get_text_config()
    if not hasattr(config, "num_experts"):
        yield
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation(ROW_BY_ROW)
    try:
        yield
    finally:
        model.set_experts_implementation(before)
