"""What a rollout worker tries when it starts: one image, in one step, so that what cannot be drawn is told before the run begins."""

from __future__ import annotations

from actors.diffusion.family import Family
from actors.diffusion.trial import not_finite, try_network
from actors.messages import DrawTrial


def try_out(family: Family, trial: DrawTrial) -> None:
    """Draws and decodes an image as a task does, but in one step; it leaves nothing behind. Raises Mistake as `try_network`."""
    try:
        family.decode(try_network(family, trial))
    except FloatingPointError as error:
        raise not_finite(trial, "VAE gives") from error
