"""The inputs of an image model's network beside latents and sigma, with and without guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """The network's inputs beside latents and sigma: tensors by name, each with a leading axis B.

    Where captions have different lengths, axis 1 is padded with zeros and a tensor of the family says how much is real. Lengths
    that the host must read lie on the CPU, all else on the family's device.
    """

    tensors: dict[str, Tensor]

    def repeat(self, count: int) -> Conditions:
        """Each row `count` times, in order: B rows become B * count."""
        return Conditions({name: tensor.repeat_interleave(count, dim=0) for name, tensor in self.tensors.items()})

    def rows(self, first: int, last: int) -> Conditions:
        """The rows first .. last - 1."""
        return Conditions({name: tensor[first:last] for name, tensor in self.tensors.items()})

    @staticmethod
    def concatenate(parts: list[Conditions]) -> Conditions:
        """All rows of all parts, padded with zeros to the longest."""
        names = parts[0].tensors
        return Conditions({name: _padded_cat([part.tensors[name] for part in parts]) for name in names})


@dataclass(frozen=True)
class Prompted:
    """What images are drawn for: the conditions of their captions and, where guidance needs them, those of the empty caption."""

    conditions: Conditions
    unconditional: Conditions | None = None
    guidance_scale: float = 1.0

    def repeat(self, count: int) -> Prompted:
        """Each row `count` times, in order."""
        return self._each(lambda conditions: conditions.repeat(count))

    def rows(self, first: int, last: int) -> Prompted:
        """The rows first .. last - 1."""
        return self._each(lambda conditions: conditions.rows(first, last))

    def _each(self, change: Callable[[Conditions], Conditions]) -> Prompted:
        unconditional = self.unconditional and change(self.unconditional)
        return Prompted(change(self.conditions), unconditional, self.guidance_scale)


def _padded_cat(tensors: list[Tensor]) -> Tensor:
    if tensors[0].ndim == 1:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([_padded(tensor, longest) for tensor in tensors])


def _padded(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[1]
    return (
        tensor
        if missing == 0
        else torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)
    )
