"""What a vision-language model must offer to score text, and how the family of a folder is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from actors.models.folder import check_vlm, vlm_facts
from actors.models.path import VLM_MARKER
from actors.plugins import loaded

if TYPE_CHECKING:  # the interface can be read without torch
    import numpy as np
    import torch


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


def load_vlm(
    path_or_name: str,
    dtype: torch.dtype,
    device: torch.device,
    image_pixels: int | None = None,
    family: str | None = None,
) -> Vlm:
    """The VLM in a folder or on the hub, frozen; `image_pixels` is the budget to which it shrinks images (None: its own).

    `family`: of the user's own, as the recipe names it.
    Raises Mistake where there is no whole model, or none that a family covers, and ValueError for a budget that it cannot keep.
    """
    from actors.models.hub import local_folder
    from actors.models.weights import check_vlm_weights

    folder = local_folder(path_or_name, VLM_MARKER)
    check_vlm(folder, family)
    found = vlm_class(folder, family)
    check_vlm_weights(folder, found.ignored_weights)
    vlm: Vlm = found(str(folder), dtype, device, image_pixels)
    return vlm


def vlm_class(folder: Path, family: str | None = None) -> Any:
    """The class of the family of a VLM in a local folder that `check_vlm` has passed. Raises Mistake as `loaded`."""
    return loaded(vlm_facts(folder, family).family)
