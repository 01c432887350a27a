"""Qwen2.5-VL and Qwen3-VL behind the `Vlm` interface: a vision tower that reads an image at its own size, and M-RoPE positions."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from actors.mistake import Mistake
from actors.vlm.frozen import FrozenVlm, Shown


class QwenVl(FrozenVlm):
    """A frozen Qwen2_5_VLForConditionalGeneration or Qwen3VLForConditionalGeneration.

    An image is resized to whole tokens within a budget of pixels, which `image_pixels` replaces (about that many at most; a smaller
    least size of the processor stays). A token covers merge_size x merge_size patches: 32 x 32 px in Qwen3-VL, 28 x 28 px in
    Qwen2.5-VL. Inputs are built by hand, since the model's own processor needs torchvision for videos.

    In `VlmBatch.inputs` every tensor begins with the axis K, pixels are [K, patches, 3, frames, patch], and `position_ids` are [K, 3, L].
    Left out: videos.
    """

    def _show(self, images: list[Image.Image]) -> Shown:
        cut = self._cut(images)
        frames = self.image_processor.temporal_patch_size
        pixels = cut.pixel_values.to(torch.uint8).unflatten(1, (3, frames, -1)).unflatten(0, (len(images), -1))
        grid_thw = cut.image_grid_thw[0]
        num_tokens = int(grid_thw.prod()) // self.image_processor.merge_size**2
        return Shown(pixels, self.chat.image_token * num_tokens, {"image_grid_thw": grid_thw})

    def _row_inputs(self, row_ids: Tensor, shown: Shown) -> dict[str, Tensor]:
        """Positions as well: the model would compute the same for every row, on its device."""
        positions_31L, _ = self.model.model.get_rope_index(
            row_ids[None],
            mm_token_type_ids=(row_ids == self.chat.image_token_id).int()[None],
            image_grid_thw=shown.row["image_grid_thw"][None],
        )
        return {**shown.row, "position_ids": positions_31L[:, 0]}

    def _keywords(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pixels as [patches of all rows, values of a patch], positions as [3, rows, L]."""
        if "pixel_values" not in inputs:
            return inputs
        pixels, positions = inputs["pixel_values"], inputs["position_ids"]
        return {**inputs, "pixel_values": pixels.flatten(0, 1).flatten(1), "position_ids": positions.transpose(0, 1)}

    def _limit_pixels(self, image_pixels: int) -> None:
        processor = self.image_processor
        least = (processor.patch_size * processor.merge_size) ** 2
        if image_pixels < least:
            raise Mistake(
                f"reward.image_pixels = {image_pixels}: one token of this VLM covers {least} pixels: give that or more"
            )
        smallest = min(processor.size["shortest_edge"], image_pixels)  # both "edges" are areas, in spite of their names
        processor.size = {"shortest_edge": smallest, "longest_edge": image_pixels}
