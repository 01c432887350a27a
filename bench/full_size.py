"""Image models of known architectures with random weights, made where they run and in their type; and narrow ones of the same make.

Nothing is downloaded and nothing large is written: a narrow model is saved and loaded through the ordinary code path, and the full
one takes its place. What text encoders would give is random numbers of the right shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor, nn

from actors.diffusion.families.conditions import Conditions
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.seeds import seed_of, stream_of
from bench.full_size_judge import fill
from pipelines.preflight.memory.architectures import load
from toy.random_models.families import MAKERS

CAPTION = "a red circle"
EMPTY_TOKENS = 8  # of the empty caption, in families whose captions have different lengths
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "base_image_seq_len": 256}
NARROW_VAE = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 2}


@dataclass(frozen=True)
class ImageModel:
    """A family of image models beside its architecture.

    `maker`: of the tiny pipeline whose tokenizers and encoders stand in; `vae`: an architecture; `scheduler`: its config;
    `caption_tokens` that the transformer reads; `narrow`: what the narrow transformer's config changes.
    """

    maker: str
    vae: str
    scheduler: dict[str, Any]
    caption_tokens: int
    narrow: dict[str, Any]
    narrow_vae: dict[str, Any]


IMAGE_MODELS: dict[str, ImageModel] = {
    "sd3.5-medium": ImageModel(
        "sd3", "vae-sd3", {"shift": 3.0}, 77 + 256,
        {"num_layers": 3, "num_attention_heads": 2, "caption_projection_dim": 128, "dual_attention_layers": [0], "sample_size": 32,
         "pos_embed_max_size": 64, "joint_attention_dim": 64, "pooled_projection_dim": 32}, NARROW_VAE,
    ),
    "flux.1-dev": ImageModel(
        "flux-dev", "vae-flux", {**DYNAMIC, "shift": 3.0, "max_shift": 1.15, "max_image_seq_len": 4096}, 512,
        {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 1, "joint_attention_dim": 64, "pooled_projection_dim": 32},
        NARROW_VAE,
    ),
    "qwen-image": ImageModel(
        "qwen-image", "vae-qwen-image", {**DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}, 256,
        {"num_layers": 3, "num_attention_heads": 1, "joint_attention_dim": 64}, {"base_dim": 8},
    ),
    "z-image": ImageModel(
        "z-image", "vae-flux", {"shift": 3.0}, 256,
        {"n_layers": 3, "n_refiner_layers": 1, "dim": 128, "n_heads": 1, "n_kv_heads": 1, "cap_feat_dim": 64}, NARROW_VAE,
    ),
}  # fmt: skip


def transformer_config(name: str, tiny: bool) -> dict[str, Any]:
    """The config of an image model's transformer."""
    return {**load(name)["config"], **(IMAGE_MODELS[name].narrow if tiny else {})}


def image_model(
    name: str, device: torch.device, dtype: torch.dtype, tiny: bool, caption_tokens: int, folder: Path
) -> Family:
    """The family of an image model with random weights; captions are `caption_tokens` long. The narrow one is written to `folder`."""
    model = IMAGE_MODELS[name]
    save_narrow(model, name, folder)
    sequence = LoadOptions(device, dtype, decoder=True, max_sequence_length=64)
    family = load_family(str(folder / "narrow"), sequence)
    if not tiny:
        full = make(name, device, dtype)
        family.transformer = family.pipeline.transformer = full
        family.pipeline.vae = make(model.vae, device, torch.float32)
    stand_in = Captions(transformer_config(name, tiny), caption_tokens, device, dtype)
    family.encode = stand_in.encode  # type: ignore[method-assign]
    family.pipeline.set_progress_bar_config(disable=True)
    return family


def save_narrow(model: ImageModel, name: str, folder: Path) -> None:
    """Writes a pipeline whose transformer, VAE and schedule are narrow forms of the architecture's."""
    disable_progress_bar()
    makers: dict[str, Any] = MAKERS
    tiny = str(makers[model.maker](folder / "tiny"))
    parts = diffusers.DiffusionPipeline.load_config(tiny)
    absent = {part: None for part, value in parts.items() if isinstance(value, list) and value[0] is None}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny, **absent)
    cpu = torch.device("cpu")
    changed = {
        "transformer": make(name, cpu, torch.float32, model.narrow),
        "vae": make(model.vae, cpu, torch.float32, model.narrow_vae),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**model.scheduler),
    }
    type(pipeline)(**{**pipeline.components, **changed}).save_pretrained(folder / "narrow")


def make(name: str, device: torch.device, dtype: torch.dtype, changes: dict[str, Any] | None = None) -> nn.Module:
    """A diffusers model of an architecture, frozen."""
    description = load(name)
    with device, default_dtype(dtype):
        model = getattr(diffusers, description["class"])(**{**description["config"], **(changes or {})})
    return fill(model if dtype == torch.float32 else model.to(dtype))  # the buffers are still float32


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within it new parameters are of this type, so that no float32 copy of a large model ever exists."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Captions:
    """What the text encoders of an image model would give, by the names in its transformer's config."""

    config: dict[str, Any]
    tokens: int
    device: torch.device
    dtype: torch.dtype

    def encode(self, captions: list[str]) -> Conditions:
        """Stands in for `Family.encode`: random numbers, the same for the same caption."""
        return Conditions.concatenate([self._encode_one(caption) for caption in captions])

    def _encode_one(self, caption: str) -> Conditions:
        normal = self._normal_of(caption)
        if "pooled_projection_dim" in self.config:
            embeds = normal(1, self.tokens, self.config["joint_attention_dim"])
            return Conditions(
                {"prompt_embeds": embeds, "pooled_prompt_embeds": normal(1, self.config["pooled_projection_dim"])}
            )
        tokens = self.tokens if caption.strip() else EMPTY_TOKENS
        width = self.config.get("joint_attention_dim") or self.config["cap_feat_dim"]
        tensors = {"prompt_embeds": normal(1, tokens, width), "prompt_lengths": torch.tensor([tokens])}
        if "joint_attention_dim" in self.config:
            tensors["prompt_mask"] = torch.ones(1, tokens, dtype=torch.bool, device=self.device)
        return Conditions(tensors)

    def _normal_of(self, caption: str) -> Callable[..., Tensor]:
        stream = stream_of(seed_of("caption", caption))
        return lambda *shape: torch.from_numpy(stream.standard_normal(shape, np.float32)).to(self.device, self.dtype)
