"""The proof that an adapter reaches the model: a velocity at fixed noise for a fixed caption must differ from the base model's."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.diffusion.family import Family
from actors.diffusion.lora import A, B, Merger
from actors.diffusion.sample import noise_of
from actors.messages import Adapter
from actors.seeds import seed_of

CAPTION = "a red circle"
LARGEST_PIXELS = 2048


class ProvenMerger(Merger):
    """A merger that probes the model after each load. The probe is one forward of one image of the smallest size.

    `effect` is |v - v_base| / |v_base| of the adapter that it holds; in bfloat16 rounding alone comes to about 1e-2 in a deep
    model: an adapter of which only a few weights arrive cannot be told from one that is tiny.
    Make it before anything is merged into the family.
    """

    def __init__(self, family: Family) -> None:
        super().__init__(family.transformer)
        self.family = family
        self.noise_BCHW = noise_of(seed_of("probe", "noise"), (1, *smallest_latents(family))).to(family.device)
        self.conditions = family.prompted(CAPTION, guidance_scale=1.0).conditions
        self.base_velocity_BCHW = self.velocity()
        self.effect = 0.0

    @torch.no_grad()
    def velocity(self) -> Tensor:
        """The probe of the model as it is now, at sigma 1: float32 [1, C, H, W]."""
        return self.family.velocity(self.noise_BCHW, torch.ones(1, device=self.family.device), self.conditions)

    def load(self, adapter: Adapter) -> None:
        """As `Merger.load`; also raises ValueError if the adapter is not zero and the velocity is the base model's to the bit."""
        if self.sha256 == adapter.sha256:
            return
        super().load(adapter)
        self.sha256 = ""  # until it is proven: a second try is probed again
        velocity_BCHW = self.velocity()
        if torch.equal(velocity_BCHW, self.base_velocity_BCHW) and not is_zero(adapter):
            raise ValueError(
                f"adapter {adapter.policy_version} is not zero and binds to {len(self.base)} modules, "
                f"but the model answers a probe as without it, to the bit: {self.finding()}"
            )
        self.effect = ((velocity_BCHW - self.base_velocity_BCHW).norm() / self.base_velocity_BCHW.norm()).item()
        self.sha256 = adapter.sha256

    def finding(self) -> str:
        """Why the adapter that was merged may be without effect."""
        changed = sum(not torch.equal(self.weights[name].cpu(), base) for name, base in self.base.items())
        dtype = str(next(iter(self.base.values())).dtype).removeprefix("torch.")
        if changed == 0:
            return f"it is so small that rounding to {dtype} leaves all their weights as they were"
        return (
            f"the weights of {changed} of them changed, but the model does not draw with these, "
            f"or by so little that it is lost in rounding to {dtype}"
        )


def smallest_latents(family: Family) -> tuple[int, int, int]:
    """(C, H, W) of the latents of the smallest square image that the family draws."""
    for pixels in range(1, LARGEST_PIXELS + 1):
        try:
            return family.latent_shape(pixels, pixels)
        except ValueError:
            continue
    raise ValueError(f"{type(family).__name__} draws no square image of up to {LARGEST_PIXELS} pixels")


def is_zero(adapter: Adapter) -> bool:
    """True if B A is zero in every module: nowhere do a row of A and the column of B that meets it both have an entry but zero."""
    tensors = adapter.tensors
    modules = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    return not any((tensors[name + A].any(axis=1) & tensors[name + B].any(axis=0)).any() for name in modules)
