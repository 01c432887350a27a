"""What a text-to-image model family must offer, and the registry of families by the pipeline class named in a model's folder."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

FAMILIES: dict[str, str] = {
    "StableDiffusion3Pipeline": "actors.diffusion.sd3:StableDiffusion3",
}

CACHED_CAPTIONS = 256


@dataclass(frozen=True)
class Conditions:
    """What the network is told beside latents and sigma: tensors by name, each with a leading axis B."""

    tensors: dict[str, Tensor]

    def repeat(self, count: int) -> Conditions:
        """Each row `count` times, in order: B rows become B * count."""
        return Conditions({name: tensor.repeat_interleave(count, dim=0) for name, tensor in self.tensors.items()})

    @staticmethod
    def concatenate(parts: list[Conditions]) -> Conditions:
        """All rows of all parts."""
        return Conditions({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


class Family(ABC):
    """One kind of image model. It hides its own sign, timestep, packing and guidance conventions.

    To the outside: `sigma` in [0, 1] with 1 = pure noise; x_sigma = (1 - sigma) * clean + sigma * noise;
    `velocity` = noise - clean; latents are float32 and normalised as the transformer wants them.
    """

    pipeline: DiffusionPipeline
    transformer: nn.Module
    device: torch.device
    lora_targets: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(self) -> None:
        self._captions: OrderedDict[str, Conditions] = OrderedDict()

    @abstractmethod
    def fit_caption(self, caption: str) -> str:
        """The caption, cut at a word if it is longer than the text encoders read; unchanged otherwise."""

    @abstractmethod
    def encode(self, captions: list[str]) -> Conditions:
        """Conditions for the captions, one row each."""

    @abstractmethod
    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        """The predicted velocity, float32 [B, C, H, W]."""

    @abstractmethod
    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """The sampler's sigmas for an image of this size in pixels: float32 [num_steps + 1], from 1 down to 0."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of an image of this size in pixels. Raises ValueError for a size the model cannot draw."""

    @abstractmethod
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images, uint8 [B, H, W, 3] on the CPU."""

    def guide(self, unconditional_BCHW: Tensor, conditional_BCHW: Tensor, guidance_scale: float) -> Tensor:
        """Classifier-free guidance: u + g (c - u); 1 means no guidance."""
        return unconditional_BCHW + guidance_scale * (conditional_BCHW - unconditional_BCHW)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict) -> None:
        """Writes the LoRA so that the diffusers pipeline's `load_lora_weights(folder)` reads it, rank and alpha included."""
        type(self.pipeline).save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
        )

    def conditions(self, caption: str) -> Conditions:
        """Conditions of one caption (one row), encoded once and kept while it is among the last few hundred asked for."""
        if caption not in self._captions:
            self._captions[caption] = self.encode([caption])
            if len(self._captions) > CACHED_CAPTIONS:
                self._captions.popitem(last=False)
        self._captions.move_to_end(caption)
        return self._captions[caption]


@dataclass(frozen=True)
class LoadOptions:
    """How to load a family: `decoder=False` leaves out the VAE, which the policy does not need."""

    device: torch.device
    dtype: torch.dtype
    decoder: bool
    max_sequence_length: int


def load_family(model: str, options: LoadOptions) -> Family:
    """The family of a model given by path or hub name. Raises ValueError for a pipeline class that no family covers."""
    pipeline_class = DiffusionPipeline.load_config(model)["_class_name"]
    if pipeline_class not in FAMILIES:
        raise ValueError(
            f"{model} is a {pipeline_class}; EchoRay has families for {', '.join(FAMILIES)}: add one in actors/diffusion/family.py"
        )
    module, name = FAMILIES[pipeline_class].split(":")
    load: Callable[[str, LoadOptions], Family] = getattr(importlib.import_module(module), name)
    return load(model, options)
