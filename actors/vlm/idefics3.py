"""Idefics3 and SmolVLM behind the `Vlm` interface: an image is cut into square frames, and a last frame shows it whole."""

from __future__ import annotations

import math

import numpy as np
import torch

from actors.mistake import Mistake
from actors.vlm.frozen import FrozenVlm, Shown, pictures


class Idefics3(FrozenVlm):
    """A frozen Idefics3ForConditionalGeneration or SmolVLMForConditionalGeneration.

    An image is resized so that its longer edge is the processor's, then up to whole frames; `image_pixels` makes that edge the
    largest number of frames whose square holds no more pixels. Every frame is full, so that no pixel mask is given.
    The text around the frames is what Idefics3Processor writes; SmolVLM's processor writes the same.
    Left out: processors that make a zero of one byte in all channels, as the model takes a frame of zeros for padding; videos.
    """

    lead = " "  # "Assistant:" asks, and "Assistant: text" answers

    def _show(self, images_KHWC: np.ndarray) -> Shown:
        cut = self._cut([[image] for image in pictures(images_KHWC)], return_row_col_info=True)
        text = self._frames_text(cut["rows"][0][0], cut["cols"][0][0])
        return Shown(cut.pixel_values.to(torch.uint8), text)

    def _one_row(self, values: list[torch.Tensor]) -> torch.Tensor:
        """All frames of all images, [1, frames, 3, *, *]."""
        return torch.cat(values, dim=1)

    def _frames_text(self, rows: int, columns: int) -> str:
        """What stands for an image of so many rows and columns of frames, and one that shows it whole; 0 and 0 if it was not cut."""
        around, frame = "<fake_token_around_image>", self.chat.image_token * self.model.model.image_seq_len
        parts = [
            "".join(f"{around}<row_{row}_col_{column}>{frame}" for column in range(1, columns + 1)) + "\n"
            for row in range(1, rows + 1)
        ]
        return "".join(parts) + "\n" * bool(rows) + f"{around}<global-img>{frame}{around}"

    def _limit_pixels(self, image_pixels: int) -> None:
        processor = self.image_processor
        edge = processor.max_image_size["longest_edge"]
        if not processor.do_image_splitting:
            super()._limit_pixels(image_pixels)
        if image_pixels < edge**2:
            raise Mistake(
                f"image_pixels = {image_pixels}: one frame of this VLM covers {edge**2} pixels: give that or more"
            )
        processor.size = {"longest_edge": math.isqrt(image_pixels) // edge * edge}
