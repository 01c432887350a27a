"""What a rollout worker tries when it starts: one image, in one step, so that what cannot be drawn is told before the run begins."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.diffusion.family import Family
from actors.diffusion.sample import noise_of
from actors.messages import DrawTrial
from actors.mistake import Mistake
from actors.rollout.probe import CAPTION
from actors.seeds import seed_of


@torch.no_grad()
def try_out(family: Family, trial: DrawTrial) -> None:
    """Draws an image as a task does, but in one step; it leaves nothing behind.

    Raises Mistake for a size or number of steps that the model does not draw, and for a part that gives what is not finite.
    """
    shape = family.latent_shape(trial.height, trial.width)
    for num_steps in trial.num_steps:
        sigmas = family.sigmas(num_steps, trial.height, trial.width)
    prompted = family.prompted(CAPTION, trial.guidance_scale)
    _check(trial.model, "text encoders give", *prompted.conditions.tensors.values())
    noise_BCHW = noise_of(seed_of("trial"), (1, *shape)).to(family.device)
    try:
        velocity_BCHW = family.guided_velocity(noise_BCHW, sigmas[0].expand(1).to(family.device), prompted)
    except ValueError as error:
        raise Mistake(f"{trial.model} does not draw {trial.height} x {trial.width} pixels: {error}") from error
    _check(trial.model, "transformer gives", velocity_BCHW)
    latents_BCHW = noise_BCHW - sigmas[0].to(family.device) * velocity_BCHW
    try:
        family.decode(latents_BCHW)
    except FloatingPointError as error:
        raise Mistake(_not_finite(trial.model, "VAE gives")) from error


def _check(model: str, what: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point()):
        raise Mistake(_not_finite(model, what))


def _not_finite(model: str, what: str) -> str:
    return (
        f"policy.model = {model!r}: its {what} values that are not finite, so no image can be drawn: its weights are damaged, or they "
        "overflow in this dtype"
    )
