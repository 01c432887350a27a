"""A table of positions that a small model cannot overlook: from a weak one, left and right are learned late or never."""

import torch

from toy.world import GRID


def position_table(width: int, rms: float) -> torch.Tensor:
    """Sines and cosines of row and column, half the width each: float32 [GRID * GRID, width] of a given rms."""
    frequencies = torch.pi * 2.0 ** -torch.linspace(0, 3, width // 4)
    angles = torch.arange(GRID)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, GRID, -1), waves[None].expand(GRID, -1, -1)
    table = torch.cat([rows, columns], dim=-1).reshape(GRID * GRID, width)
    return table * rms / table.square().mean().sqrt()
