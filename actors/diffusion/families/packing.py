"""Latents as tokens of 2 x 2, the form in which some transformers read them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


def pack(latents_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H/2 * W/2, 4 C]: tokens row by row; within one channel by channel, then row by row."""
    return pixel_unshuffle(latents_BCHW, 2).flatten(2).transpose(1, 2)


def unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of height x width."""
    return pixel_shuffle(tokens_BND.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)
