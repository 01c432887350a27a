"""The proof that an adapter reaches the images: its weights stand in the model, and the model draws with these weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from actors.device import all_to_host
from actors.diffusion.family import Family
from actors.diffusion.lora import A, B, Merger
from actors.diffusion.sample import noise_of
from actors.messages import Adapter
from actors.seeds import seed_of

CAPTION = "a red circle"
LARGEST_PIXELS = 2048
LEAST_SHARE = 1e-3  # of the adapter must stand in the weights; an Adam step at 1e-8 leaves 1e-4 in bfloat16


class ProvenMerger(Merger):
    """A merger that proves each load with a probe: the velocity of one image of the smallest size, for a fixed caption and noise.

    Three things must hold of an adapter that is not zero (docs/decisions/0021): `share` (see `Merger`) is LEAST_SHARE or more;
    the velocity has a gradient with respect to every weight that the adapter changes, which is looked at once for each module; and
    the velocity is not the base model's to the bit, unless the change is below the type's epsilon, relative to the weights.
    None of them depends on how much rounding alone moves a deep model.
    `effect` is |v - v_base| / |v_base| of the adapter that it holds; in bfloat16 rounding alone comes to about 1e-2 there.
    Make it before anything is merged into the family.
    """

    def __init__(self, family: Family) -> None:
        super().__init__(family.transformer)
        self.family = family
        self.noise_BCHW = noise_of(seed_of("probe", "noise"), (1, *smallest_latents(family))).to(family.device)
        self.sigma_B = torch.ones(1, device=family.device)
        self.conditions = family.prompted(CAPTION, guidance_scale=1.0).conditions
        self.base_velocity_BCHW = self.velocity()
        self.effect = 0.0
        self.drawn_with: set[str] = set()

    @torch.no_grad()
    def velocity(self) -> Tensor:
        """The probe of the model as it is now, at sigma 1: float32 [1, C, H, W]."""
        return self.family.velocity(self.noise_BCHW, self.sigma_B, self.conditions)

    def load(self, adapter: Adapter) -> None:
        """As `Merger.load`; also raises ValueError for an adapter that does not reach the images."""
        if self.sha256 == adapter.sha256:
            return
        super().load(adapter)
        self.sha256 = ""  # until it is proven: a second try is probed again
        changed = changed_modules(adapter)
        velocity_BCHW = self.velocity()
        if changed and (finding := self.finding(changed, velocity_BCHW)):
            raise ValueError(
                f"adapter {adapter.policy_version} changes {len(changed)} modules, but does not reach the images: {finding}"
            )
        self.effect = ((velocity_BCHW - self.base_velocity_BCHW).norm() / self.base_velocity_BCHW.norm()).item()
        self.sha256 = adapter.sha256

    def unload(self) -> None:
        super().unload()
        self.effect = 0.0

    def finding(self, changed: list[str], velocity_BCHW: Tensor) -> str:
        """Why an adapter that was merged and changes these modules does not reach the images; empty if it does."""
        dtype = str(self.family.dtype).removeprefix("torch.")
        if self.share < LEAST_SHARE:
            return (
                f"it is so small that rounding to {dtype} leaves {self.share:.2g} of it in the weights"
                ' (a higher policy.learning_rate, a shorter policy.warmup_steps or rollout.dtype = "float32" lets it through)'
            )
        self.drawn_with |= self.with_gradient([name for name in changed if name not in self.drawn_with])
        if idle := [name for name in changed if name not in self.drawn_with]:
            return f"the model does not draw with the weights of {len(idle)} of them: {', '.join(idle[:3])}"
        if self.size > torch.finfo(self.family.dtype).eps and torch.equal(velocity_BCHW, self.base_velocity_BCHW):
            return f"the weights changed, but the model answers a probe as without it, to the bit, in {dtype}"
        return ""

    def with_gradient(self, modules: list[str]) -> set[str]:
        """Those of the modules with respect to whose weights the probe's velocity has a gradient that is not zero.

        One forward and one backward without torch.compile; each gradient is freed as soon as it was looked at.
        """
        found: dict[str, Tensor] = {}

        def look(name: str, weight: Tensor) -> None:
            assert weight.grad is not None
            found[name] = weight.grad.any()
            weight.grad = None

        if not modules:
            return set()
        weights = {name: self.weights[name].requires_grad_() for name in modules}
        hooks = [w.register_post_accumulate_grad_hook(partial(look, name)) for name, w in weights.items()]
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            self.family.velocity(self.noise_BCHW, self.sigma_B, self.conditions).square().sum().backward()
        for hook, weight in zip(hooks, weights.values(), strict=True):
            hook.remove()
            weight.requires_grad_(False)
        return {name for name, has_gradient in all_to_host(found).items() if has_gradient}


def smallest_latents(family: Family) -> tuple[int, int, int]:
    """(C, H, W) of the latents of the smallest square image that the family draws."""
    for pixels in range(1, LARGEST_PIXELS + 1):
        try:
            return family.latent_shape(pixels, pixels)
        except ValueError:
            continue
    raise ValueError(f"{type(family).__name__} draws no square image of up to {LARGEST_PIXELS} pixels")


def changed_modules(adapter: Adapter) -> list[str]:
    """The modules in which B A is not zero: somewhere a row of A and the column of B that meets it both have an entry but zero."""
    tensors = adapter.tensors
    modules = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    return [name for name in modules if (tensors[name + A].any(axis=1) & tensors[name + B].any(axis=0)).any()]
