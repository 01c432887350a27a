"""The sigmas that a sampler steps through, from a diffusers scheduler and its shift for the size of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from actors.mistake import Mistake


def size_shift(config: Mapping[str, Any], tokens: int) -> float:
    """mu, the logarithm of the shift for an image of so many tokens: on the line through the scheduler's two given points."""
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return config["base_shift"] + slope * (tokens - config["base_image_seq_len"])


def ramp(num_steps: int) -> np.ndarray:
    """The sigmas 1, 1 - 1 / num_steps, ..., 1 / num_steps, which most pipelines hand to their scheduler: float64 [num_steps]."""
    return np.linspace(1.0, 1 / num_steps, num_steps)


def shifted_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, tokens: int, unshifted: np.ndarray | None = None
) -> Tensor:
    """Float32 [num_steps + 1] from 1 down to 0, as the scheduler shifts them for an image of `tokens` tokens.

    `unshifted` are the sigmas to shift; without them the scheduler takes its own. A scheduler with a fixed shift ignores the size.
    Raises Mistake where the scheduler has no sigmas for so few steps: one that ends at a `shift_terminal` needs two.
    """
    mu = size_shift(scheduler.config, tokens) if scheduler.config["use_dynamic_shifting"] else None
    scheduler.set_timesteps(num_steps, sigmas=unshifted, mu=mu)
    sigmas = scheduler.sigmas.clone()
    if not torch.isfinite(sigmas).all():
        raise Mistake(
            f"{num_steps} sampling steps: this model's scheduler has no sigmas for so few; set rollout.steps and heldout.steps to 2 or more"
        )
    return sigmas
