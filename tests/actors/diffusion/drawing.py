"""Drawing with a family and with its diffusers pipeline, from the same noise."""

import copy

import torch
from diffusers import DiffusionPipeline, QwenImagePipeline

from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.sample import draw_latents, noise_of

CAPTION = "a red circle and a blue square"
LONG = " ".join(["a red circle above two green triangles"] * 20)
CAPTIONS = [CAPTION, LONG, "one"]
SIZE, WIDE = (32, 32), (32, 48)
STEPS, TOKENS = 4, 64


def options(**changes) -> LoadOptions:
    """On the CPU in float32, with all parts, for captions of up to 64 tokens."""
    given = {"dtype": torch.float32, "decoder": True, "max_sequence_length": TOKENS} | changes
    return LoadOptions(torch.device("cpu"), **given)


def load(folder: str, **changes) -> Family:
    return load_family(folder, options(**changes))


def copy_of(family: Family) -> Family:
    """As if it were loaded once more, in a fifth of the time: no caption is encoded yet."""
    copied = copy.deepcopy(family)
    copied._captions.clear()
    return copied


def load_pipeline(folder: str) -> DiffusionPipeline:
    """The pipeline as its users load it."""
    parts = DiffusionPipeline.load_config(folder)
    absent = {name: None for name, value in parts.items() if isinstance(value, list) and value[0] is None}
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(family: Family, count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.stack([noise_of(seed, family.latent_shape(*size)) for seed in range(count)])


def prompted(family: Family, captions: list[str], guidance_scale: float) -> Prompted:
    """One row for each caption, cut to what the family reads."""
    return family.together([family.prompted(family.fit_caption(caption), guidance_scale) for caption in captions])


def ours(family: Family, captions: list[str], guidance_scale: float, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Latents of one image per caption."""
    latents, sigmas = noise(family, len(captions), size), family.sigmas(STEPS, *size)
    return draw_latents(family, latents, sigmas, prompted(family, captions, guidance_scale))


def theirs(pipeline, family, captions, guidance_scale, size=SIZE, output_type="latent"):
    """What the pipeline makes of the same noise; `guidance_scale` is the argument of its that is documented as the scale."""
    guidance = {"guidance_scale": guidance_scale}
    if isinstance(pipeline, QwenImagePipeline):
        guidance = {"true_cfg_scale": guidance_scale, "negative_prompt": [" "] * len(captions)}
    output = pipeline(
        [family.fit_caption(caption) for caption in captions], latents=packed(pipeline, noise(family, len(captions), size)),
        num_inference_steps=STEPS, height=size[0], width=size[1], output_type=output_type, max_sequence_length=TOKENS, **guidance,
    ).images  # fmt: skip
    return unpacked(pipeline, output, size) if output_type == "latent" else output


def packed(pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents in the form that the pipeline takes."""
    return pipeline._pack_latents(latents, *latents.shape) if hasattr(pipeline, "_pack_latents") else latents


def unpacked(pipeline, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The pipeline's latents as [B, C, H, W]."""
    if hasattr(pipeline, "_unpack_latents"):
        latents = pipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
    return latents.squeeze(2) if latents.ndim == 5 else latents
