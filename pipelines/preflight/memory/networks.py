"""What an image transformer keeps for a backward pass, and what a forward pass needs, from what its family says of its network.

The multiples of the width were counted as those of the families (actors/families/image.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.families.image import Block, Network, Saved

FORWARD, BACKWARD = 20.5, 13.0  # widths per token: the largest that any of the networks was counted to need


@dataclass(frozen=True)
class Pass:
    """A pass through a network: rows of a batch, tokens of an image and of a caption, bytes of a number, rank of the LoRA."""

    rows: int
    image: int
    text: int
    element: int
    rank: int


def saved_bytes(network: Network, run: Pass, checkpointing: bool) -> int:
    """Bytes that wait for the backward pass, at their most. With checkpointing: each block's input, and one block in full."""
    per_block = [(block.count, _block_bytes(network, block, run)) for block in network.blocks]
    if not checkpointing:
        copies = (
            run.element * network.lora * run.rank if run.element < 4 else 0
        )  # of the float32 LoRA in the model's type
        return round(sum(count * size for count, size in per_block) + copies)
    inputs = sum(block.count for block in network.blocks) * (run.image + run.text) * run.rows * network.width
    return round(inputs * run.element + max(size for _, size in per_block))


def forward_bytes(network: Network, run: Pass) -> int:
    """The peak of a forward without gradient."""
    return round(FORWARD * network.width * run.element * run.rows * (run.image + run.text))


def backward_bytes(network: Network, run: Pass) -> int:
    """The peak of a backward beside what was saved for it."""
    return round(BACKWARD * network.width * run.element * run.rows * (run.image + run.text))


def _block_bytes(network: Network, block: Block, run: Pass) -> float:
    return run.rows * (
        run.image * _token_bytes(network, block.image, run) + run.text * _token_bytes(network, block.text, run)
    )


def _token_bytes(network: Network, saved: Saved, run: Pass) -> float:
    return network.width * (saved.own * run.element + saved.float32 * 4) + saved.adapters * run.rank * run.element
