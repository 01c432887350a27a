"""Qwen2.5-VL and Qwen3-VL behind the `Vlm` interface: a vision tower that reads an image at its own size, and M-RoPE positions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from actors.mistake import Mistake
from actors.vlm.frozen import FrozenVlm, Shown, pictures
from actors.vlm.qwen_tower import as_it_comes, cut_patches, quicken, tower_inputs


class QwenVl(FrozenVlm):
    """A frozen Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration or Qwen3VLMoeForConditionalGeneration.

    An image is resized to whole tokens within a budget of pixels, which `image_pixels` replaces (about that many at most; a smaller
    least size of the processor stays). A token covers merge_size x merge_size patches: 32 x 32 px in Qwen3-VL, 28 x 28 px in
    Qwen2.5-VL. Inputs are built by hand, since the model's own processor needs torchvision for videos.

    In `VlmBatch.inputs` every tensor begins with the axis K, pixels are [K, patches, 3, frames, patch], and `position_ids` are [K, 3, L].
    Left out: videos.
    """

    read_by_host = ("image_grid_thw",)

    def __init__(
        self, path_or_name: str, dtype: torch.dtype, device: torch.device, image_pixels: int | None = None
    ) -> None:
        super().__init__(path_or_name, dtype, device, image_pixels)
        quicken(self.model.model.visual)

    def _show(self, images_KHWC: np.ndarray) -> Shown:
        """Images that are whole tokens already travel as they are, and the device cuts them."""
        processor, (count, height, width, _) = self.image_processor, images_KHWC.shape
        patch, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        cut: Callable[[Tensor], Tensor] | None = None
        if self._fits(height, width):
            pixels = torch.tensor(images_KHWC).permute(0, 3, 1, 2)
            grid_thw = torch.tensor([1, height // patch, width // patch])
            cut = partial(cut_patches, patch=patch, merge=merge, frames=frames)
        else:
            made = self._cut(pictures(images_KHWC))
            pixels = made.pixel_values.to(torch.uint8).unflatten(1, (3, frames, -1)).unflatten(0, (count, -1))
            grid_thw = made.image_grid_thw[0]
        text = self.chat.image_token * (int(grid_thw.prod()) // merge**2)
        return Shown(pixels, text, {"image_grid_thw": grid_thw}, cut)

    def _fits(self, height: int, width: int) -> bool:
        """Whether the processor would leave an image of this size as it is. Raises ValueError for one too narrow for it."""
        processor = self.image_processor
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        unit = processor.patch_size * processor.merge_size
        return smart_resize(height, width, unit, least, most) == (height, width)

    def reading(self, prompt: dict[str, Tensor]) -> dict[str, Any]:
        """Positions, and what the tower is told, instead of what tells images from text."""
        if "pixel_values" not in prompt:
            return prompt
        grid_n3 = prompt["image_grid_thw"]
        positions_31L = self._positions(prompt["input_ids"][0].cpu(), grid_n3)
        told = tower_inputs(self.model.model.visual, grid_n3, 1, self._send)
        own = {name: tensor for name, tensor in prompt.items() if name != "mm_token_type_ids"}
        return {**own, "position_ids": self._send(positions_31L), **told}

    def as_it_comes(self) -> AbstractContextManager[None]:
        """The tower as well is that of transformers."""
        return as_it_comes(self.model.model.visual)

    def _own_inputs(self, ids: Tensor, row: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**row, "mm_token_type_ids": self._send(self._types(ids))[None]}

    def _one_row(self, values: list[Tensor]) -> Tensor:
        """[patches of all images, values of a patch]."""
        return torch.cat([patches[0].flatten(1) for patches in values])

    def _row_inputs(self, row_ids: Tensor, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions as well: the model would compute the same for every row, on its device."""
        return {**row, "position_ids": self._positions(row_ids, row["image_grid_thw"][None])[:, 0]}

    def _types(self, ids: Tensor) -> Tensor:
        """1 where an image stands, else 0."""
        return (ids == self.chat.image_token_id).int()

    def _positions(self, ids: Tensor, grid_n3: Tensor) -> Tensor:
        """M-RoPE positions [3, 1, L] of a row with n images."""
        positions_31L, _ = self.model.model.get_rope_index(
            ids[None], mm_token_type_ids=self._types(ids)[None], image_grid_thw=grid_n3
        )
        return positions_31L

    def _keywords(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Pixels as [patches of all rows, values of a patch], positions as [3, rows, L], and what the tower is told."""
        if "pixel_values" not in inputs:
            return inputs
        pixels, positions = inputs["pixel_values"], inputs["position_ids"]
        told = tower_inputs(self.model.model.visual, inputs["image_grid_thw"][:1], len(pixels), self._send)
        own = {"pixel_values": pixels.flatten(0, 1).flatten(1), "position_ids": positions.transpose(0, 1)}
        return {**inputs, **own, **told}

    def _limit_pixels(self, image_pixels: int) -> None:
        processor = self.image_processor
        least = (processor.patch_size * processor.merge_size) ** 2
        if image_pixels < least:
            raise Mistake(
                f"image_pixels = {image_pixels}: one token of this VLM covers {least} pixels: give that or more"
            )
        smallest = min(processor.size["shortest_edge"], image_pixels)  # both "edges" are areas, in spite of their names
        processor.size = {"shortest_edge": smallest, "longest_edge": image_pixels}
