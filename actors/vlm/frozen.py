"""What VLMs of transformers classes share: loading, pixels, rows of inputs, and forward passes within a budget of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText, GenerationConfig

from actors.messages import Turn
from actors.mistake import Mistake
from actors.vlm.chat import Chat
from actors.vlm.family import VlmBatch
from actors.vlm.limits import PATCHES_PER_TOKEN, TOKENS_AT_ONCE

# what configs call what is done to the logits after the head
HEAD_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Shown:
    """K images of one size as a family's image processor cuts them, in bytes: not yet rescaled and normalised.

    `pixels` is uint8 [K, ..., 3, *, *], `text` stands for one image in the prompt, and `row` holds the model's other inputs
    of an image, the same for all K. `cut` is what is still to be done with the pixels, on the device and once bytes are values.
    """

    pixels: Tensor
    text: str
    row: dict[str, Tensor] = field(default_factory=dict)
    cut: Callable[[Tensor], Tensor] | None = None


class FrozenVlm:
    """A `Vlm` (actors/vlm/family.py) around a transformers model whose `model` is the same without its head; a base for families.

    A family says how images become pixels and text (`_show`), and may add inputs (`_row_inputs`), reshape them (`_keywords`)
    and offer a budget of pixels (`_limit_pixels`); of a prompt, which may have several images, it says what its own processor
    would give (`_own_inputs`, `_one_row`) and how it is read (`reading`, `as_it_comes`). The image processor is always the PIL one,
    so that pixels do not depend on whether torchvision is installed. It only resizes and cuts: bytes travel to the device, a quarter
    of what floats take, and become there the very numbers that the processor makes of them.

    A group goes through the model in as few passes as hold TOKENS_AT_ONCE tokens each, of as even a size as can be. A row counts as
    its tokens (image, template and answer) and a quarter of the vision tower's patches. The cut depends on shapes alone, so that a
    task of one shape gives the same bits again; another cut moves a state by rounding.

    Raises Mistake for a folder without a chat template, an `image_pixels` that the family cannot keep, and a head that is more
    than a matrix.
    Left out: models on several devices.
    """

    ignored_weights: ClassVar[tuple[str, ...]] = ()
    """Patterns of names in the files that the model does not read."""
    read_by_host: ClassVar[tuple[str, ...]] = ()
    """Inputs whose numbers Python reads: they stay on the host, so that nobody waits for the device."""
    lead = ""
    """What the model's template writes before an assistant's text, beyond what asks for it."""

    def __init__(
        self, path_or_name: str, dtype: torch.dtype, device: torch.device, image_pixels: int | None = None
    ) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(
            path_or_name, dtype=dtype, attn_implementation="sdpa", device_map={"": device}
        )
        self.model.eval().requires_grad_(False)
        self.lm_head = plain_head(self.model, path_or_name)
        self.chat = Chat(path_or_name, self.model.config.image_token_id, self.lead)
        self.tokenizer = self.chat.tokenizer
        self.stops = _stops(self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        # What else the folder says of generating is not for it to say, but for the recipe.
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.stops) or None, pad_token_id=self.tokenizer.pad_token_id
        )
        self.image_processor = AutoImageProcessor.from_pretrained(path_or_name, backend="pil")
        if image_pixels is not None:
            self._limit_pixels(image_pixels)
        self._values_C256 = byte_values(self.image_processor).to(self.device, dtype)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def context(self) -> int:
        """The most tokens that the model reads."""
        found: int = self.model.config.get_text_config().max_position_embeddings
        return found

    def batch(self, images_KHWC: np.ndarray | None, query: str, answer: str, include_eos: bool) -> VlmBatch:
        """See `Vlm.batch`: a row is prefix + answer."""
        shown = None if images_KHWC is None else self._show(images_KHWC)
        prefix_ids = self.chat.prefix(query, shown.text if shown else None)
        answer_ids, tokens = self.chat.answer(answer, include_eos)
        row_ids = torch.cat([prefix_ids, answer_ids])
        if len(row_ids) > self.context:
            raise ValueError(
                f"{len(row_ids)} tokens of image, query and answer exceed this VLM's {self.context}: shorten the caption"
            )
        row = {"input_ids": row_ids} | (self._row_inputs(row_ids, shown.row) if shown else {})
        num_rows = len(shown.pixels) if shown else 1
        there = {name: tensor if name in self.read_by_host else self._send(tensor) for name, tensor in row.items()}
        inputs = {name: tensor.expand(num_rows, *tensor.shape) for name, tensor in there.items()}
        if shown:
            inputs["pixel_values"] = self._values(shown)
        return VlmBatch(inputs, self._send(answer_ids), len(prefix_ids), tokens)

    @torch.inference_mode()
    def states(self, batch: VlmBatch) -> Tensor:
        """See `Vlm.states`: the model without its head, so that no logits are made for image, query or template."""
        first = batch.answer_start - 1
        answer = slice(first, first + len(batch.answer_ids_T))
        size = rows_at_once(len(batch.inputs["input_ids"]), self._row_tokens(batch.inputs), self.device.type)
        parts = []
        for tensors in zip(*(tensor.split(size) for tensor in batch.inputs.values()), strict=True):
            keywords = self._keywords(dict(zip(batch.inputs, tensors, strict=True)))
            parts.append(self.model.model(**keywords, use_cache=False).last_hidden_state[:, answer])
        return torch.cat(parts)

    def prompt(self, turns: Sequence[Turn], images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """What the model's own processor makes of a chat, up to where the assistant speaks: a row of its own, without padding.

        `images` are uint8 RGB [H, W, 3] of any sizes, to which parts of turns refer by number. Raises ValueError for one that is not
        there, for the text of a special token, and for turns that the chat template cannot write.
        """
        numbers = [part for turn in turns for part in turn.parts if isinstance(part, int)]
        if missing := [number for number in numbers if not 0 <= number < len(images)]:
            raise ValueError(f"image {missing[0]} is asked for, but {len(images)} are there")
        shown = [self._show(images[number][None]) for number in numbers]
        ids = self.chat.conversation(turns, [one.text for one in shown])
        inputs = {"input_ids": self._send(ids)[None]}
        if not shown:
            return inputs
        row = {name: torch.stack([one.row[name] for one in shown]) for name in shown[0].row}
        pixels = self._one_row([self._values(one) for one in shown])
        return inputs | self._own_inputs(ids, row) | {"pixel_values": pixels}

    def reading(self, prompt: dict[str, Tensor]) -> dict[str, Any]:
        """The keywords by which the model reads a prompt."""
        return prompt

    def as_it_comes(self) -> AbstractContextManager[None]:
        """Within it the model takes a prompt as it is, for transformers' own `generate`."""
        return nullcontext()

    def _show(self, images_KHWC: np.ndarray) -> Shown:
        """What the model gets of K images of one size."""
        raise NotImplementedError

    def _row_inputs(self, row_ids: Tensor, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a row with an image beside `input_ids` and `pixel_values`, without the axis K. `row`: of `Shown`."""
        return row

    def _own_inputs(self, ids: Tensor, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a prompt with images beside ids and pixels; `row`: of `Shown`, with a leading axis for the images."""
        return row

    def _one_row(self, values: list[Tensor]) -> Tensor:
        """The pixels of the images of one prompt, each [1, ...], as the model takes them."""
        return torch.cat(values)

    def _values(self, shown: Shown) -> Tensor:
        """The pixels as the model sees them, on its device."""
        values = look_up(self._send(shown.pixels), self._values_C256)
        return shown.cut(values) if shown.cut else values

    def _keywords(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The model's keyword arguments of some rows of `VlmBatch.inputs`."""
        return inputs

    def _limit_pixels(self, image_pixels: int) -> None:
        """Makes the image processor shrink images to about `image_pixels`."""
        raise Mistake(
            f"image_pixels = {image_pixels}: a VLM of the type {self.model.config.model_type} reads every image at one "
            "size: leave the key out"
        )

    def _cut(self, images: list[Any], **options: Any) -> Any:
        """What the image processor makes of images without rescaling and normalising them: whole numbers in 0..255."""
        return self.image_processor(images=images, do_rescale=False, do_normalize=False, return_tensors="pt", **options)

    def _send(self, tensor: Tensor) -> Tensor:
        """On the model's device; to a GPU from page-locked memory, without waiting."""
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def _row_tokens(self, inputs: dict[str, Tensor]) -> int:
        """What a row counts in the budget of a pass."""
        tokens = inputs["input_ids"].shape[1]
        if "pixel_values" in inputs:
            vision = self.model.config.vision_config
            values = 3 * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)
            tokens += inputs["pixel_values"][0].numel() // values // PATCHES_PER_TOKEN
        return tokens


def _stops(said: int | list[int] | None, of_tokenizer: int | None) -> tuple[int, ...]:
    """The tokens that end a text: those of a folder's generation_config, and the tokenizer's."""
    found = [said] if isinstance(said, int) else said or []
    return tuple(dict.fromkeys([*found, *([] if of_tokenizer is None else [of_tokenizer])]))


def pictures(images_KHWC: np.ndarray) -> list[Image.Image]:
    """Images for a processor: of a bare array it would have to guess which axis holds the channels."""
    return [Image.fromarray(image) for image in images_KHWC]


def plain_head(model: Any, path_or_name: str) -> Tensor:
    """The output head [V, D]. Raises Mistake for a head that is more than a matrix product, which the likelihood would leave out."""
    head: Any = model.get_output_embeddings()
    config = model.config.get_text_config()
    more = [name for name in HEAD_SCALES if getattr(config, name, None) not in (None, 1, 1.0)]
    what = f"has {more[0]} = {getattr(config, more[0])}" if more else ""
    if type(head) is not nn.Linear:
        what = f"is a {type(head).__module__}.{type(head).__qualname__}"
    elif head.bias is not None:
        what = "has a bias"
    if what:
        raise Mistake(
            f"model = {path_or_name!r}: its output head {what}, but EchoRay reads a plain matrix. If it is an adapter of peft, "
            "merge it into the weights (merge_and_unload) and save the model"
        )
    return head.weight


def rows_at_once(num_rows: int, row_tokens: int, device_type: str) -> int:
    """Rows of a forward pass: as few passes as the budget allows, and as even ones; a row that exceeds it goes alone."""
    passes = math.ceil(num_rows / max(1, TOKENS_AT_ONCE[device_type] // row_tokens))
    return math.ceil(num_rows / passes)


def byte_values(image_processor: Any) -> Tensor:
    """float32 [3, 256]: what an image processor makes of each byte in each channel, asked of the processor itself."""
    values_C1V = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))
    if image_processor.do_rescale:
        values_C1V = image_processor.rescale(values_C1V, image_processor.rescale_factor)
    if image_processor.do_normalize:
        values_C1V = image_processor.normalize(values_C1V, image_processor.image_mean, image_processor.image_std)
    return torch.from_numpy(values_C1V).float()[:, 0]


def look_up(pixels: Tensor, values_C256: Tensor) -> Tensor:
    """The values of bytes [..., 3, *, *], by channel; of the values' dtype."""
    channels = zip(pixels.unbind(-3), values_C256, strict=True)
    return torch.stack([values[channel.int()] for channel, values in channels], dim=-3)
