"""What a vision-language model must offer to score text, and the registry of families by the model_type of their config."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from actors.model_path import VLM_MARKER, check_model

if TYPE_CHECKING:  # the registry can be read without torch
    import numpy as np
    import torch

VLMS: dict[str, str] = {
    "idefics3": "actors.vlm.idefics3:Idefics3",
    "llava": "actors.vlm.llava:Llava",
    "qwen2_5_vl": "actors.vlm.qwen_vl:QwenVl",
    "qwen3_vl": "actors.vlm.qwen_vl:QwenVl",
    "smolvlm": "actors.vlm.idefics3:Idefics3",
}


@dataclass(frozen=True)
class VlmBatch:
    """K rows that differ in their image alone, as the model wants them: no padding, and the answer at the same place in each.

    `inputs` are tensors with a row per image, `input_ids` [K, L] among them. Tokens answer_start .. answer_start + T
    of every row are `answer_ids_T` (int64). `tokens` are the answer's T pieces for a reader; joined they give the answer (and the
    end token, if it was asked for).
    """

    inputs: dict[str, torch.Tensor]
    answer_ids_T: torch.Tensor
    answer_start: int
    tokens: tuple[str, ...]


class Vlm(Protocol):
    """A frozen vision-language model that is told (image, query) and asked for the likelihood of an answer.

    It hides processor, chat template, image placeholders and position ids. log p(answer token t | image, query, answer before t)
    is log_softmax(states(batch)[:, t] @ lm_head.T): a model whose head does more than that (a bias, a soft cap) does not fit yet.
    Every implementation keeps what tests/actors/vlm checks: the prefix (all before the answer) is what the chat template makes
    of image and query; the answer's ids do not depend on the prefix; a special token's text inside the answer is plain text;
    no parameter needs a gradient; the model is in eval mode; a row does not depend on the rows beside it.
    """

    lm_head: torch.Tensor
    """The output embedding [V, D]."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def batch(self, images_KHWC: np.ndarray | None, query: str, answer: str, include_eos: bool) -> VlmBatch:
        """The inputs of K uint8 RGB images of one size, or of one row without an image (None).

        Raises ValueError for an empty answer, for a query that contains a special token's text, and for more tokens than the
        model's context.
        """

    def states(self, batch: VlmBatch) -> torch.Tensor:
        """The final hidden states [K, T, D] at the positions that predict the answer's tokens, in the model's dtype."""


def load_vlm(path_or_name: str, dtype: torch.dtype, device: torch.device, image_pixels: int | None = None) -> Vlm:
    """The VLM in a folder or on the hub, frozen; `image_pixels` is the budget to which it shrinks images (None: its own).

    Raises ValueError where there is no model, or none that a family covers, and for a budget that the family cannot keep.
    """
    check_model(path_or_name, VLM_MARKER)
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(path_or_name)
    except (OSError, ValueError) as error:
        raise ValueError(f"the VLM {path_or_name} cannot be read: {error}") from error
    if config.model_type not in VLMS:
        raise ValueError(f"{path_or_name} is a {config.model_type}; EchoRay reads VLMs of the types {', '.join(VLMS)}")
    family: Callable[[str, torch.dtype, torch.device, int | None], Vlm] = pkgutil.resolve_name(VLMS[config.model_type])
    return family(path_or_name, dtype, device, image_pixels)
