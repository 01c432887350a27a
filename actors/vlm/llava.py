"""LLaVA behind the `Vlm` interface: a CLIP or SigLIP vision tower of one image size, a projector, and a causal language model."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from actors.vlm.frozen import FrozenVlm, Shown, pictures


class Llava(FrozenVlm):
    """A frozen LlavaForConditionalGeneration: every image is one square, and a fixed number of tokens.

    Left out: Pixtral vision towers, whose number of image tokens varies with the image (refused in actors/models/folder.py).
    """

    def __init__(
        self, path_or_name: str, dtype: torch.dtype, device: torch.device, image_pixels: int | None = None
    ) -> None:
        super().__init__(path_or_name, dtype, device, image_pixels)
        self.num_image_tokens = self._count_image_tokens()

    def _show(self, images_KHWC: np.ndarray) -> Shown:
        pixels = self._cut(pictures(images_KHWC)).pixel_values.to(torch.uint8)
        return Shown(pixels, self.chat.image_token * self.num_image_tokens)

    @torch.inference_mode()
    def _count_image_tokens(self) -> int:
        """Asked of the model itself: tower, feature selection and projector decide it together."""
        pixels = self._cut([Image.new("RGB", (32, 32))]).pixel_values.to(self.device, self.model.dtype)
        return len(self.model.get_image_features(pixels).pooler_output[0])
