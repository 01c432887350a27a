"""How much image transformers keep for a backward pass, and how much a forward pass needs, as multiples of their width per token.

The multiples were read off the forward passes of diffusers 0.42 with LoRA by peft, in bfloat16, and agree with what torch's hooks for
saved tensors count (tests/pipelines/preflight/memory/test_estimate.py). Attention is assumed to keep its inputs and output,
as fused kernels do. Left out: torch.compile, which keeps less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FORWARD, BACKWARD = 20.5, 13.0  # widths per token: the largest that any of the networks was counted to need


@dataclass(frozen=True)
class Saved:
    """What one token leaves behind in one block: numbers in the model's type and float32 copies, in widths; outputs of LoRA's A."""

    own: float = 0
    float32: float = 0
    adapters: int = 0


@dataclass(frozen=True)
class Block:
    """`count` blocks that are alike, and what an image's token and a caption's token leave in each."""

    count: int
    image: Saved
    text: Saved


@dataclass(frozen=True)
class Network:
    """A transformer of this width. `lora`: how many numbers a LoRA of rank 1 has."""

    width: int
    blocks: tuple[Block, ...]
    lora: int


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


def network_of(kind: str, config: Mapping[str, Any], targets: str) -> Network:
    """The network of a transformer's class with the LoRA of `policy.lora_targets`. Raises KeyError for a class not in NETWORKS."""
    return NETWORKS[kind](config, targets == "all")


def _sd3(config: Mapping[str, Any], everything: bool) -> Network:
    """MMDiT.

    Norms 2, their modulated outputs 1 (2 with LoRA on the feed-forward), raw q and k 2 and float32 copies of both, joint q, k, v and
    output 4, its slice 1, the feed-forward's inside 4 (8 with LoRA). Dual attention adds 7 for images.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers, dual = config["num_layers"], len(config.get("dual_attention_layers") or ())
    normed = bool(config.get("qk_norm"))
    stream = Saved(12 + 2 * normed + 5 * everything, 2 * normed, 4 + 2 * everything)
    last_text = Saved(6 + 2 * normed, 2 * normed, 3)
    twice = Saved(stream.own + 5 + 2 * normed, stream.float32 + 2 * normed, stream.adapters + 4)
    blocks = [Block(dual, twice, stream), Block(layers - dual - 1, stream, stream), Block(1, stream, last_text)]
    if dual == layers:
        blocks = [Block(dual - 1, twice, stream), Block(1, twice, last_text)]
    attention, feed_forward = 2 * width, 10 * width if everything else 0
    matrices = layers * 2 * (4 * attention + feed_forward) + dual * 4 * attention - (attention + feed_forward)
    return Network(width, tuple(block for block in blocks if block.count), matrices)


def _flux(config: Mapping[str, Any], everything: bool) -> Network:
    """As SD3, but q and k are normed by torch's own RMSNorm, whose float32 input is all it keeps; then one stream for both."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    double, single = config["num_layers"], config["num_single_layers"]
    stream = Saved(12 + 5 * everything, 2, 4 + 2 * everything)
    joint = Saved(10 + 5 * everything, 2, 3 + 2 * everything)
    attention = 2 * width
    matrices = double * 2 * (4 * attention + (10 * width if everything else 0))
    matrices += single * (3 * attention + (11 * width if everything else 0))
    matrices += width + config["in_channels"] if everything else 0
    return Network(width, (Block(double, stream, stream), Block(single, joint, joint)), matrices)


def _qwen_image(config: Mapping[str, Any], everything: bool) -> Network:
    """As SD3 with normed q and k, without dual attention, and with a caption stream that is whole in the last block."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"]
    stream = Saved(14 + 5 * everything, 2, 4 + 2 * everything)
    matrices = layers * 2 * (8 * width + (10 * width if everything else 0))
    return Network(width, (Block(layers, stream, stream),), matrices)


def _z_image(config: Mapping[str, Any], everything: bool) -> Network:
    """One stream of image and caption, and before it refiners of the tokens of each alone.

    Inputs of four norms 4 and float32 copies of them, raw q and k 2 and float32 copies of both, q, k, v and output 4, the modulated
    norm 1 (2 with LoRA on the feed-forward), and three insides of a gated feed-forward (four with LoRA).
    """
    width, inner = config["dim"], int(config["dim"] / 3 * 8)
    layers, refiners = config["n_layers"], config["n_refiner_layers"]
    ratio = inner / width
    token = Saved(11 + 3 * ratio + everything * (1 + ratio), 6, 4 + 3 * everything)
    blocks = (Block(layers, token, token), Block(refiners, token, Saved()), Block(refiners, Saved(), token))
    matrices = (layers + 2 * refiners) * (8 * width + (3 * (width + inner) if everything else 0))
    return Network(width, blocks, matrices)


def _block_bytes(network: Network, block: Block, run: Pass) -> float:
    return run.rows * (
        run.image * _token_bytes(network, block.image, run) + run.text * _token_bytes(network, block.text, run)
    )


def _token_bytes(network: Network, saved: Saved, run: Pass) -> float:
    return network.width * (saved.own * run.element + saved.float32 * 4) + saved.adapters * run.rank * run.element


NETWORKS: dict[str, Callable[[Mapping[str, Any], bool], Network]] = {
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "QwenImageTransformer2DModel": _qwen_image,
    "ZImageTransformer2DModel": _z_image,
}
