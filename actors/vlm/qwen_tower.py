"""The vision tower of the Qwen-VLs, quick on a GPU: patches by one matrix product, attention by few calls, no wait for the device.

The classes of transformers embed patches with a convolution whose kernel is its stride, which is slow in bfloat16; call attention once
per image, or once per window; and read the images' grids back from the device in every layer. What is told here is what they would
compute, so that a group of images of one grid costs a call of attention per length of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

SEGMENTS = "flash_segments"  # by the word "flash" transformers knows an attention that is told where segments end


def quicken(visual: Any) -> None:
    """Replaces the patch embedding and the attention of a tower; `tower_inputs` go with every call."""
    visual.patch_embed.forward = PatchProduct(visual.patch_embed.proj)
    visual.config._attn_implementation = SEGMENTS


@contextmanager
def as_it_comes(visual: Any) -> Iterator[None]:
    """Within it the tower is that of transformers, for whoever compares."""
    del visual.patch_embed.forward
    visual.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        quicken(visual)


class PatchProduct:
    """A convolution whose kernel is its stride, as a matrix product: [patches, values] -> [patches, width]."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        self.convolution = convolution

    def __call__(self, patches: Tensor) -> Tensor:
        """The embedding; equal to the convolution's up to the order of its sums."""
        weight = self.convolution.weight.flatten(1)
        return F.linear(patches.to(weight.dtype).view(-1, weight.shape[1]), weight, self.convolution.bias)


def cut_patches(pixels_KCHW: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """[K, patches, C, frames, patch * patch], token by token; all frames show the same. Both sides must be whole tokens."""
    blocks = pixels_KCHW.unflatten(3, (-1, merge, patch)).unflatten(2, (-1, merge, patch))
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(6).flatten(1, 4)
    return patches.unsqueeze(3).expand(-1, -1, -1, frames, -1)


def tower_inputs(visual: Any, grid_n3: Tensor, rows: int, send: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What the tower would compute of `rows` rows, each of images of these n grids; for the model's forward, hence the prefix.

    `send` brings to the device what it reads. Where segments end stays on the host, since only Python asks.
    """
    merge = visual.spatial_merge_size
    patches = grid_n3.prod(1).tolist()
    told: dict[str, Any] = {
        "position_ids": send(get_vision_position_ids(grid_n3, merge).repeat(rows, 1)),
        "cu_seqlens": _ends(patches * rows),
        "rows": rows,
    }
    if hasattr(visual, "window_size"):
        order, lengths = _equal_windows_together(visual, grid_n3)
        tokens = torch.arange(rows)[:, None] * len(order)
        told |= {"window_index": send((tokens + order).flatten()), "cu_window_seqlens": _ends(lengths * rows)}
    if hasattr(visual, "pos_embed"):
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid_n3,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        told |= {"interp_indices": send(indices.repeat(rows, 1)), "interp_weights": send(weights.repeat(rows, 1))}
    return {f"image_{name}": value for name, value in told.items()}


def _equal_windows_together(visual: Any, grid_n3: Tensor) -> tuple[Tensor, list[int]]:
    """The tokens of a row's images, image by image, window by window, wide windows first; and the patches of each window."""
    order: list[Tensor] = []
    lengths: list[int] = []
    first = 0
    for grid_3 in grid_n3:
        index, ends = get_vision_window_index(
            grid_3[None], visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
        patches = ends.diff().tolist()
        windows = index.split([length // visual.spatial_merge_unit for length in patches])
        by_length = sorted(range(len(windows)), key=[-length for length in patches].__getitem__)
        order += [first + windows[window] for window in by_length]
        lengths += [patches[window] for window in by_length]
        first += len(index)
    return torch.cat(order), lengths


def _ends(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)


def attend_in_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    rows: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention [1, heads, patches, D] -> [1, patches, heads, D] within segments, which are the same in each of `rows` rows.

    Neighbours of one length share a call.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    runs = [(length, len(list(run))) for length, run in groupby(lengths[: len(lengths) // rows])]
    heads = [tensor[0].transpose(0, 1).unflatten(0, (rows, -1)) for tensor in (query, key, value)]
    parts: list[Tensor] = []
    for own in zip(*(tensor.split([length * count for length, count in runs], 1) for tensor in heads), strict=True):
        length, count = runs[len(parts)]
        q, k, v = (tensor.unflatten(1, (count, length)).flatten(0, 1).transpose(1, 2) for tensor in own)
        attended = F.scaled_dot_product_attention(q, k, v, scale=scaling)
        parts.append(attended.transpose(1, 2).unflatten(0, (rows, count)).flatten(1, 2))
    return torch.cat(parts, 1).flatten(0, 1)[None], None


AttentionInterface.register(SEGMENTS, attend_in_segments)
