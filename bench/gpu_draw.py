"""Drawing on a GPU: bits twice and after other shapes, loading an adapter, decoding, and merged weights against those beside a LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.device import pick_device, pick_dtype
from actors.diffusion import lora
from actors.diffusion.family import Family
from actors.diffusion.sample import draw_latents, starting_noise
from actors.messages import Adapter
from actors.rollout.probe import ProvenMerger
from bench.full_size import CAPTION, image_model
from bench.gpu_case import Case, Expected
from bench.gpu_watch import bits, peak_of, see
from bench.rollout import waits_for_device

RANK, ALPHA = 32, 64.0
SCALE = 1e-3  # standard deviation of the adapter's B: about what ten steps come to


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """In the order of what it tells per second."""
    device = pick_device(case.device)
    dtype, size = pick_dtype("auto", device), case.size
    expected = Expected(case, size.pixels, size.images, size.tokens, peak_of(device, dtype, case.tiny))
    with TemporaryDirectory() as temporary, torch.no_grad():
        loaded = see(lambda: image_model(case.family, device, dtype, case.tiny, size.tokens, Path(temporary)), device)
        family = loaded.value
        yield "made", {"seconds": loaded.seconds}
        draw = Draw(family, size.pixels, size.images, size.steps)
        draw.latents()  # what is made once is not the draw's
        first, second = see(draw.latents, device), see(draw.latents, device)
        yield "draw", {
            **expected.speed("draw", second.seconds), **expected.memory("rollout", "drawing", second.reserved),
            "same_bits_twice": bits(first.value) == bits(second.value),
            "waits": waits_for_device(draw.latents, device),
        }  # fmt: skip
        Draw(family, size.pixels, size.images - 1, 2).latents()
        Draw(family, 2 * size.pixels, 1, 2).latents()
        yield "draw after other shapes", {"same_bits": bits(draw.latents()) == bits(first.value)}
        decoded = see(lambda: family.decode(first.value), device)
        yield "decode", {"seconds": decoded.seconds, **expected.memory("rollout", "decoding", decoded.reserved)}
        yield from adapters(family, draw, expected)


def adapters(family: Family, draw: Draw, expected: Expected) -> Iterator[tuple[str, dict[str, Any]]]:
    """Loading one version after another, then the same as a LoRA beside the weights."""
    device = family.device
    merger = ProvenMerger(family)
    modules = sorted(merger.with_gradient(targeted(family)))  # the last blocks leave some unused
    for version in (1, 2):
        adapter = random_adapter(family, modules, version)
        loaded = see(lambda adapter=adapter: merger.load(adapter), device)  # type: ignore[misc]
        yield f"load adapter {version}", {
            "seconds": loaded.seconds, **expected.memory("rollout", "merging", loaded.reserved),
            "megabytes": sum(array.nbytes for array in adapter.tensors.values()) / 1e6,
            "effect": merger.effect, "share": merger.share,
        }  # fmt: skip
    merged = draw.velocity()
    merger.load(random_adapter(family, modules, 2, scale=0.0))  # the base again
    base = draw.velocity()
    lora.attach(family.transformer, RANK, ALPHA, adapter.targets, seed=0)
    for name, parameter in lora.tensors(family.transformer, lora.TRAINED).items():
        if name in adapter.tensors:
            parameter.copy_(torch.from_numpy(adapter.tensors[name]))
    beside = draw.velocity()
    yield (
        "merged against unmerged",
        {
            "difference": float((merged - beside).norm() / beside.norm()),
            "effect_of_adapter": float((beside - base).norm() / base.norm()),
        },
    )


class Draw:
    """A group of one caption, from fixed noise."""

    def __init__(self, family: Family, pixels: int, images: int, steps: int) -> None:
        self.family = family
        self.noise_BCHW = starting_noise(family, range(max(1, images)), pixels, pixels)
        self.sigmas = family.sigmas(steps, pixels, pixels)
        self.prompted = family.prompted(CAPTION, 1.0).repeat(len(self.noise_BCHW))

    def latents(self) -> Tensor:
        """As a rollout worker draws them."""
        return draw_latents(self.family, self.noise_BCHW, self.sigmas, self.prompted)

    def velocity(self) -> Tensor:
        """Of the first step."""
        sigma_B = self.sigmas[:1].to(self.family.device).repeat(len(self.noise_BCHW))
        return self.family.guided_velocity(self.noise_BCHW, sigma_B, self.prompted)


def targeted(family: Family) -> list[str]:
    """The modules that a recipe's `attention` names."""
    ends = tuple(f".{target}.weight" for target in family.lora_targets["attention"])
    weights = list(family.transformer.named_parameters())
    return [name.removesuffix(".weight") for name, weight in weights if name.endswith(ends) and weight.ndim == 2]


def random_adapter(family: Family, modules: list[str], version: int, scale: float = SCALE) -> Adapter:
    """On these modules."""
    generator, tensors = np.random.default_rng(version), {}
    weights = dict(family.transformer.named_parameters())
    for module in modules:
        rows, columns = weights[f"{module}.weight"].shape
        tensors[module + lora.A] = generator.normal(0, 1 / RANK, (RANK, columns)).astype(np.float32)
        tensors[module + lora.B] = generator.normal(0, 1, (rows, RANK)).astype(np.float32) * np.float32(scale)
    return Adapter(version, RANK, ALPHA, family.lora_targets["attention"], lora.sha256_of(tensors), tensors)
