"""CLIP and SigLIP: an image and a text become unit vectors of one space, each by an encoder of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from actors.mistake import UNUSABLE, Mistake
from actors.models.folder import check_dual_encoder
from actors.models.hub import local_folder
from actors.models.path import VLM_MARKER
from actors.models.weights import check_dual_encoder_weights
from actors.vlm.frozen import pictures
from actors.vlm.limits import IMAGES_AT_ONCE


class DualEncoder:
    """A frozen CLIPModel or SiglipModel.

    Left out: SigLIP 2's models of any resolution (model_type siglip2).
    """

    def __init__(self, folder: str, dtype: torch.dtype, device: torch.device) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", device_map={"": device})
        self.model.eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.length: int = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts that are padded to one length, and sees the padding.
        self.padding = "max_length" if self.model.config.model_type == "siglip" else False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = self.model.device
        return found

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        config = self.model.config
        width: int = config.vision_config.hidden_size if config.model_type == "siglip" else config.projection_dim
        return width

    @property
    def dtype(self) -> str:
        """The type of its numbers."""
        return str(self.model.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def images(self, images_KHWC: np.ndarray) -> Tensor:
        """Unit vectors, float32 [K, D], of uint8 RGB images. One that is no number stays so."""
        pixels = self.image_processor(images=pictures(images_KHWC), return_tensors="pt").pixel_values
        parts = [
            self.model.get_image_features(some.to(self.device, self.model.dtype)).pooler_output
            for some in pixels.split(IMAGES_AT_ONCE[self.device.type])
        ]
        return _unit(torch.cat(parts))

    @torch.inference_mode()
    def text(self, text: str) -> tuple[Tensor, int]:
        """The unit vector, float32 [D], of a text, and how many of its tokens the model's length cut off.

        Raises ValueError for an empty text.
        """
        if not text.strip():
            raise ValueError(f"the caption {text!r} is empty: nothing can be compared with an image")
        whole = self.tokenizer(text, split_special_tokens=True).input_ids
        ids = self.tokenizer(
            text,
            split_special_tokens=True,
            truncation=True,
            max_length=self.length,
            padding=self.padding,
            return_tensors="pt",
        ).input_ids
        features = self.model.get_text_features(ids.to(self.device)).pooler_output
        return _unit(features)[0], max(0, len(whole) - self.length)

    def logits(self, cosines_K: Tensor) -> Tensor:
        """What the model itself makes of cosines: times exp(logit_scale), and SigLIP's bias."""
        scaled = cosines_K * self.model.logit_scale.float().exp()
        return scaled + self.model.logit_bias.float() if hasattr(self.model, "logit_bias") else scaled


def load_dual_encoder(path_or_name: str, dtype: torch.dtype, device: torch.device) -> DualEncoder:
    """The model in a folder or on the hub, frozen. Raises Mistake where there is no whole CLIP or SigLIP."""
    folder = local_folder(path_or_name, VLM_MARKER)
    check_dual_encoder(folder)
    check_dual_encoder_weights(folder)
    try:
        return DualEncoder(str(folder), dtype, device)
    except UNUSABLE as error:  # of its tokenizer or image processor
        raise Mistake(f"{folder} cannot be loaded: {error}") from error


def _unit(vectors_KD: Tensor) -> Tensor:
    vectors_KD = vectors_KD.float()
    return vectors_KD / vectors_KD.norm(dim=-1, keepdim=True)
