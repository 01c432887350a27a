"""What every worker with an image model tries when it starts: one velocity at the drawn size, so that a mistake is found at once."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.diffusion.compiling import uncompiled
from actors.diffusion.family import Family
from actors.diffusion.sample import noise_of
from actors.messages import DrawTrial
from actors.mistake import UNUSABLE, Mistake
from actors.seeds import seed_of

CAPTION = "a red circle"


@torch.no_grad()
def try_network(family: Family, trial: DrawTrial) -> Tensor:
    """Latents of one image [1, C, H, W], drawn in one step; the model and all random streams stay as they were.

    Raises Mistake for a size or number of steps that the model does not draw, and for a part that gives what is not finite.
    """
    shape = family.latent_shape(trial.height, trial.width)
    for num_steps in trial.num_steps:
        sigmas = family.sigmas(num_steps, trial.height, trial.width)
    prompted = family.prompted(CAPTION, trial.guidance_scale)
    if not all(_finite(tensor) for tensor in prompted.conditions.tensors.values()):
        raise not_finite(trial, "text encoders give")
    noise_BCHW = noise_of(seed_of("trial"), (1, *shape)).to(family.device)
    sigma_B = sigmas[:1].to(family.device)
    try:
        with uncompiled(family.transformer):
            velocity_BCHW = family.guided_velocity(noise_BCHW, sigma_B, prompted)
    except UNUSABLE as error:
        raise Mistake(
            f"{trial.key} = {trial.model!r} does not draw {trial.height} x {trial.width} pixels: {error}"
        ) from error
    if not _finite(velocity_BCHW):
        raise not_finite(trial, "transformer gives")
    return noise_BCHW - sigma_B * velocity_BCHW


def not_finite(trial: DrawTrial, what: str) -> Mistake:
    """What is said of a part of the model that gives no numbers."""
    return Mistake(
        f"{trial.key} = {trial.model!r}: its {what} values that are not finite, so no image can be drawn: its weights are damaged, "
        "or they overflow in this dtype"
    )


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
