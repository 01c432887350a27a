"""Where a model runs and in which type of number, from the recipe's words."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU that this process may see, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that computes in it, else float32; any other name is torch's own."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, name)
