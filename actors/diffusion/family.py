"""What a text-to-image model family must offer, and how the family of a folder is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor, nn

from actors.device import pick_device, pick_dtype, to_host
from actors.diffusion.compiling import compile_blocks
from actors.diffusion.families.conditions import Conditions, Prompted
from actors.diffusion.families.cutting import cut_to_fit
from actors.diffusion.limits import CACHED_CAPTIONS, PIXELS_AT_ONCE, UNTILED_PIXELS
from actors.diffusion.options import ImageModelOptions
from actors.diffusion.parking import Parked
from actors.diffusion.schedule import ramp, shifted_sigmas
from actors.mistake import Mistake
from actors.models.folder import check_pipeline, pipeline_facts
from actors.models.hub import local_folder
from actors.models.path import PIPELINE_MARKER
from actors.models.weights import check_pipeline_weights
from actors.plugins import loaded


@dataclass(frozen=True)
class LoadOptions:
    """How to load a family.

    `decoder=False` leaves out the VAE, which the policy does not need. `text_encoders` "park" keeps them on the CPU while nothing
    is encoded. `compile` runs the transformer's blocks through torch.compile; on a CPU it is off. The VAE is float32 whatever the
    `dtype`: in 16 bits its pictures are banded, and in float16 some overflow.
    """

    device: torch.device
    dtype: torch.dtype
    decoder: bool
    max_sequence_length: int
    text_encoders: Literal["keep", "park"] = "keep"
    compile: bool = False

    @classmethod
    def of(cls, options: ImageModelOptions, max_sequence_length: int, decoder: bool) -> LoadOptions:
        """What a recipe's words mean on this machine. Raises Mistake as `pick_device`."""
        device = pick_device(options.device)
        dtype = pick_dtype(options.dtype, device)
        return cls(device, dtype, decoder, max_sequence_length, options.text_encoders, options.compile)

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Of the pipeline's parts, as diffusers takes it."""
        return {"default": self.dtype, "vae": torch.float32}


class Family(ABC):
    """One kind of image model. It hides its own sign, timestep, packing and guidance conventions.

    To the outside: `sigma` in [0, 1] with 1 = pure noise; x_sigma = (1 - sigma) * clean + sigma * noise;
    `velocity` = noise - clean; latents are float32 and normalised as the transformer wants them.
    `guidance_scale` means what the family's diffusers pipeline means by it.

    A family sets `channels` of the latents, `scale` (pixels per latent in each direction) and, where it is not 2, `patch` (latents
    per token in each direction). What is not abstract here is what most pipelines do; a family overrides where its own differs.
    """

    pipeline: DiffusionPipeline
    transformer: nn.Module
    channels: int
    scale: int
    patch: int = 2
    encoder_parts: ClassVar[tuple[str, ...]]
    lora_targets: ClassVar[dict[str, tuple[str, ...]]]
    empty_caption: ClassVar[str] = ""
    ignored_weights: ClassVar[tuple[str, ...]] = ()
    """Patterns of names in the files that the family's parts do not read."""

    def __init__(self, pipeline: DiffusionPipeline, options: LoadOptions, longest_sequence: int) -> None:
        """`longest_sequence`: the most tokens of a caption that the model reads."""
        self.pipeline, self.device, self.dtype = pipeline, options.device, options.dtype
        self.max_sequence_length = options.max_sequence_length
        if self.max_sequence_length > longest_sequence or not self.fits(self.empty_caption):
            raise Mistake(
                f"policy.max_sequence_length = {self.max_sequence_length}: {type(self).__name__} reads at most {longest_sequence} tokens,"
                " and needs enough of them for its chat template and a caption"
            )
        self.transformer = pipeline.transformer
        encoders = [part for name in self.encoder_parts if (part := getattr(pipeline, name)) is not None]
        parked = encoders if options.text_encoders == "park" else []
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
                if not any(part is encoder for encoder in parked):
                    part.to(options.device)
        if options.compile and options.device.type == "cuda":
            compile_blocks(self.transformer)
        self.parked = Parked(parked, options.device)
        self._captions: OrderedDict[str, Conditions] = OrderedDict()

    @abstractmethod
    def fits(self, caption: str) -> bool:
        """Whether the text encoders read the caption to its end."""

    @abstractmethod
    def encode(self, captions: list[str]) -> Conditions:
        """Conditions for the captions, one row each. The encoders are on the device."""

    @abstractmethod
    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        """The predicted velocity, float32 [B, C, H, W]."""

    def fit_caption(self, caption: str) -> str:
        """The caption, cut if it is longer than the text encoders read; unchanged otherwise."""
        return cut_to_fit(caption, self.fits)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of an image of this size in pixels. Raises Mistake for a size the model cannot draw."""
        unit = self.scale * self.patch
        if height % unit or width % unit:
            raise Mistake(
                f"rollout.height = {height}, rollout.width = {width}: this model draws multiples of {unit} in each direction"
            )
        return self.channels, height // self.scale, width // self.scale

    def tokens(self, height: int, width: int) -> int:
        """Of how many tokens an image of this size in pixels is made. Raises Mistake as `latent_shape`."""
        _, rows, columns = self.latent_shape(height, width)
        return (rows // self.patch) * (columns // self.patch)

    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        """The sampler's sigmas for an image of this size in pixels: float32 [num_steps + 1], from 1 down to 0."""
        return shifted_sigmas(self.pipeline.scheduler, num_steps, self.tokens(height, width), ramp(num_steps))

    def picture(self, latents_BCHW: Tensor) -> Tensor:
        """What the VAE makes of the latents: float [B, 3, H, W], about -1 to 1."""
        vae = self.pipeline.vae
        latents_BCHW = latents_BCHW / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        return vae.decode(latents_BCHW.to(vae.dtype), return_dict=False)[0]

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Images, uint8 [B, H, W, 3] on the CPU. Some million pixels go through the VAE at once; the largest images go in tiles.

        Raises FloatingPointError for a picture that is not finite, which rounding would make black.
        """
        pixels = latents_BCHW[0, 0].numel() * self.scale**2
        with torch.no_grad(), _tiling(self.pipeline.vae, pixels > UNTILED_PIXELS):
            parts = latents_BCHW.split(max(1, PIXELS_AT_ONCE // pixels))
            images_BCHW = torch.cat([self.picture(part).float() for part in parts])
        if not images_BCHW.isfinite().all():
            raise FloatingPointError("the VAE made a picture that is not finite")
        unit_BHWC = (images_BCHW / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return to_host((unit_BHWC * 255).round().to(torch.uint8))

    def guide(self, unconditional_BCHW: Tensor, conditional_BCHW: Tensor, guidance_scale: float) -> Tensor:
        """Classifier-free guidance: u + g (c - u)."""
        return unconditional_BCHW + guidance_scale * (conditional_BCHW - unconditional_BCHW)

    def tell_guidance(self, conditions: Conditions, guidance_scale: float) -> Conditions:
        """The conditions with the guidance scale among them, for a network that was distilled to be told it; else unchanged."""
        return conditions

    def needs_unconditional(self, guidance_scale: float) -> bool:
        """Whether guidance at this scale mixes in the velocity of the empty caption; as in diffusers, up to 1 means none."""
        return guidance_scale > 1

    def guided_velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, prompted: Prompted) -> Tensor:
        """The velocity that images are drawn with, float32 [B, C, H, W]; with guidance both halves are one batch."""
        if prompted.unconditional is None:
            return self.velocity(latents_BCHW, sigma_B, prompted.conditions)
        both = Conditions.concatenate([prompted.unconditional, prompted.conditions])
        doubled = self.velocity(latents_BCHW.repeat(2, 1, 1, 1), sigma_B.repeat(2), both)
        unconditional, conditional = doubled.chunk(2)
        return self.guide(unconditional, conditional, prompted.guidance_scale)

    def prompted(self, caption: str, guidance_scale: float) -> Prompted:
        """One row for this caption. Captions are encoded once and kept while among the last few hundred asked for."""
        self.prepare([caption], guidance_scale)
        conditions = self.tell_guidance(self._captions[caption], guidance_scale)
        if not self.needs_unconditional(guidance_scale):
            return Prompted(conditions)
        return Prompted(conditions, self._captions[self.empty_caption], guidance_scale)

    def together(self, parts: list[Prompted]) -> Prompted:
        """All rows of all parts, which are of one guidance scale."""
        conditions = Conditions.concatenate([part.conditions for part in parts])
        unconditional = [part.unconditional for part in parts if part.unconditional is not None]
        return Prompted(
            conditions, Conditions.concatenate(unconditional) if unconditional else None, parts[0].guidance_scale
        )

    def prepare(self, captions: list[str], guidance_scale: float = 1.0) -> None:
        """Encodes those captions that are not kept yet, with one stay of the encoders on the device; guidance needs the empty one too.

        All of them are kept, however many, until others are encoded.
        """
        empty = [self.empty_caption] if self.needs_unconditional(guidance_scale) else []
        wanted = dict.fromkeys([*captions, *empty])
        missing = [caption for caption in wanted if caption not in self._captions]
        if missing:
            others = [caption for caption in self._captions if caption not in wanted]  # asked for last: at the end
            for caption in others[: max(0, len(self._captions) + len(missing) - CACHED_CAPTIONS)]:
                del self._captions[caption]
            with self.parked.stay(), torch.no_grad():
                for caption in missing:  # one by one: a row's bits do not depend on the rows beside it
                    self._captions[caption] = self.encode([caption])
        for caption in wanted:
            self._captions.move_to_end(caption)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict) -> None:
        """Writes the LoRA so that the diffusers pipeline's `load_lora_weights(folder)` reads it, rank and alpha included."""
        type(self.pipeline).save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
        )


def pipeline_parts(model: str, optional: tuple[str, ...], decoder: bool) -> dict[str, None]:
    """The parts to leave out when the pipeline is loaded: those that the folder does not have, and the VAE if it is not wanted."""
    components: Mapping[str, Any] = DiffusionPipeline.load_config(model)
    absent = dict.fromkeys(part for part in optional if components.get(part, [None])[0] is None)
    return absent if decoder else {**absent, "vae": None}


def vae_config(model: str) -> Mapping[str, Any]:
    """The config of the model's VAE, which is read whether or not the VAE is loaded. VAEs of all classes write it alike."""
    return AutoencoderKL.load_config(model, subfolder="vae")


def family_class(folder: Path, family: str | None = None) -> type[Family]:
    """The class of the family of a pipeline in a local folder that `check_pipeline` has passed. Raises Mistake as `loaded`."""
    found: type[Family] = loaded(pipeline_facts(folder, family).family)
    return found


def load_family(model: str, options: LoadOptions, family: str | None = None) -> Family:
    """The family of a model given by path or hub name; `family`: of the user's own, as the recipe names it.

    Raises Mistake for what is no whole pipeline of a class that a family covers.
    """
    folder = local_folder(model, PIPELINE_MARKER)
    check_pipeline(folder, family)
    found = family_class(folder, family)
    check_pipeline_weights(folder, found.ignored_weights)
    load: Callable[[str, LoadOptions], Family] = found
    disable_progress_bar()
    return load(str(folder), options)


@contextmanager
def _tiling(vae: Any, wanted: bool) -> Iterator[None]:
    """Within it the VAE decodes in overlapping tiles if that is wanted and it can."""
    if wanted and hasattr(vae, "use_tiling"):
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()
    else:
        yield
