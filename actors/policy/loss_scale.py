"""The scale of a loss whose gradient passes through float16, in which numbers below 6e-8 are 0 and those above 65,504 are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

HEADROOM = 2**6  # below gradients of about 1: what a weight's gradient sums over all tokens must stay finite as well


class LossScale:
    """Multiplies a loss, and divides the gradient of float32 weights by as much before anybody sees it. Without float16 it does neither.

    The loss is a mean over all numbers of a step's latents, so that a gradient is smaller the more of them there are. The scale follows
    their number and nothing else: it has no state, and the same step gives the same bits. It is a power of two, so that nothing is
    rounded. What overflows all the same is a gradient that is not finite, which an update refuses.
    """

    def __init__(self, weights: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
        self._needed = dtype == torch.float16
        self._scale = 1.0
        if self._needed:
            for weight in weights:
                weight.register_hook(self._unscale)

    def of(self, numbers: int) -> float:
        """By what to multiply the losses of a step that is a mean over so many numbers."""
        self._scale = 2.0 ** round(math.log2(max(1.0, numbers / HEADROOM))) if self._needed else 1.0
        return self._scale

    def _unscale(self, gradient: Tensor) -> Tensor:
        return gradient / self._scale
