"""How many operations a model's forward and backward take: closed forms of the known architectures, from their configs.

A multiplication and the addition to its sum are two operations. Counted are matrix products and attention; attention in full, also
where a causal mask would spare half of it (as in PaLM, arXiv 2204.02311, appendix B). Norms, activations and rotations are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

Config = Mapping[str, Any]
TIME_WIDTH = 256  # of the sinusoids of a timestep in all these transformers
Z_BLOCK = 32  # Z-Image pads captions and images to whole blocks of tokens
Z_MODULATION = 256


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass.

    `projections`: the linear layers of the attention; `layers`: all other linear layers that a gradient passes; `attention`:
    queries times keys, weights times values; `edge`: layers that no gradient passes (embedders, modulation, the head of a frozen
    VLM, what is computed and not used). `entry`: those of the projections whose input needs no gradient, in the first block.
    """

    projections: float = 0.0
    layers: float = 0.0
    attention: float = 0.0
    edge: float = 0.0
    entry: float = 0.0

    @property
    def forward(self) -> float:
        """A forward pass."""
        return self.projections + self.layers + self.attention + self.edge

    def training(self, lora_share: float) -> float:
        """Forward and backward of frozen weights and of a LoRA on the projections.

        Only inputs have gradients: once the linear layers, twice the attention. What is recomputed is not counted. A LoRA of
        rank r beside a layer of width D costs 2 r / D of it (`lora_share`), in the forward and twice in the backward.
        """
        backward = self.projections - self.entry + self.layers + 2 * self.attention
        return self.forward + backward + 3 * lora_share * self.projections

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __mul__(self, count: float) -> Flops:
        return Flops(*(getattr(self, field.name) * count for field in fields(self)))


def attend(width: int, pairs: float) -> float:
    """Attention over so many pairs of a query and a key, all heads together `width` wide."""
    return 4.0 * width * pairs


def sd3(config: Config, image: int, text: int) -> Flops:
    """SD3Transformer2DModel: two streams; the last block leaves its text stream out after attention; some blocks attend twice."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    square, layers, dual = 2.0 * width**2, config["num_layers"], len(config.get("dual_attention_layers", ()))
    patch = config["patch_size"] ** 2
    modulations = 6 * (2 * layers - 1) + 2 + 3 * dual
    embedders = image * patch * config["in_channels"] + text * config["joint_attention_dim"]
    return Flops(
        projections=square * (4 * layers * (image + text) - text + 4 * dual * image),
        layers=square * 8 * (layers * (image + text) - text) + 2.0 * width * patch * config["out_channels"] * image,
        attention=layers * attend(width, (image + text) ** 2) + dual * attend(width, image**2),
        edge=square * (modulations + 2 + 2) + 2.0 * width * (embedders + TIME_WIDTH + config["pooled_projection_dim"]),
        entry=square * 3 * (image + text) + (square * 3 * image if dual else 0.0),
    )


def flux(config: Config, image: int, text: int) -> Flops:
    """FluxTransformer2DModel: blocks of two streams, then blocks of one, whose linear layers before and after attention are fused."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    square, double, single = 2.0 * width**2, config["num_layers"], config["num_single_layers"]
    tokens = image + text
    vectors = 3 if config["guidance_embeds"] else 2  # time, pooled caption and, if told, guidance
    embedders = image * config["in_channels"] + text * config["joint_attention_dim"] + config["pooled_projection_dim"]
    return Flops(
        projections=square * (4 * double + 3 * single) * tokens,
        layers=square * (8 * double + 9 * single) * tokens + 2.0 * width * config["in_channels"] * image,
        attention=(double + single) * attend(width, tokens**2),
        edge=square * (12 * double + 3 * single + 2 + vectors) + 2.0 * width * (embedders + (vectors - 1) * TIME_WIDTH),
        entry=square * 3 * tokens,
    )


def qwen_image(config: Config, image: int, text: int) -> Flops:
    """QwenImageTransformer2DModel: two streams; what the last block makes of the text stream is not used."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    square, layers, tokens = 2.0 * width**2, config["num_layers"], image + text
    out = 4 * config["out_channels"]
    embedders = image * config["in_channels"] + text * config["joint_attention_dim"] + TIME_WIDTH
    return Flops(
        projections=square * (4 * layers * tokens - text),
        layers=square * 8 * (layers * tokens - text) + 2.0 * width * out * image,
        attention=layers * attend(width, tokens**2),
        edge=square * (9 * text + 12 * layers + 2 + 1) + 2.0 * width * embedders,
        entry=square * 3 * tokens,
    )


def z_image(config: Config, image: int, text: int) -> Flops:
    """ZImageTransformer2DModel: refiners of the image and of the caption, then one stream; all padded to whole blocks."""
    image, text = (-(-tokens // Z_BLOCK) * Z_BLOCK for tokens in (image, text))
    width, layers, refiners = config["dim"], config["n_layers"], config["n_refiner_layers"]
    square, tokens = 2.0 * width**2, layers * (image + text) + refiners * (image + text)
    hidden, patch = 3 * int(width / 3 * 8), 4 * config["in_channels"]
    modulation = min(width, Z_MODULATION)
    modulations = modulation * width * (4 * (layers + refiners) + 1)
    time = TIME_WIDTH * 1024 + 1024 * modulation
    return Flops(
        projections=square * 4 * tokens,
        layers=2.0 * width * (hidden * tokens + patch * (image + text)),
        attention=layers * attend(width, (image + text) ** 2) + refiners * attend(width, image**2 + text**2),
        edge=2.0 * width * (image * patch + text * config["cap_feat_dim"]) + 2.0 * (modulations + time),
        entry=square * 3 * (image + text),
    )


TRANSFORMERS: dict[str, Callable[[Config, int, int], Flops]] = {
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "QwenImageTransformer2DModel": qwen_image,
    "ZImageTransformer2DModel": z_image,
}
"""By class: (config, tokens of the image, tokens of the caption) -> `Flops` of one image."""


def language_model(config: Config, tokens: int, predicted: int) -> Flops:
    """A causal transformer with gated feed-forward layers on a row of `tokens`, and the head where `predicted` of them are told."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or width // heads
    keys = config.get("num_key_value_heads") or heads
    inner = config["intermediate_size"]
    if "moe_intermediate_size" in config:  # a token goes to some of the experts, and a router says to which
        inner = config["num_experts_per_tok"] * config["moe_intermediate_size"] + config["num_experts"] / 3
    layers, feed_forward = config["num_hidden_layers"], 3 * width * inner
    return Flops(
        projections=2.0 * layers * tokens * width * head_dim * (2 * heads + 2 * keys),
        layers=2.0 * layers * tokens * feed_forward,
        attention=layers * attend(heads * head_dim, tokens**2),
        edge=2.0 * predicted * width * config["vocab_size"],
    )


def qwen_tower(config: Config, rows: int, columns: int) -> Flops:
    """The vision tower of Qwen2.5-VL (gated, mostly within windows) or Qwen3-VL (plain, mergers on the way) on rows x columns patches."""
    width, depth, patches = config["hidden_size"], config["depth"], rows * columns
    merge, in_windows = config["spatial_merge_size"] ** 2, "fullatt_block_indexes" in config
    full = len(config["fullatt_block_indexes"]) if in_windows else depth
    window = config["window_size"] // config["patch_size"] if in_windows else 1
    pairs = full * patches**2 + (depth - full) * within_windows(rows, window) * within_windows(columns, window)
    mergers = 1 + len(config.get("deepstack_visual_indexes", ()))
    merging = mergers * (patches // merge) * merge * width * (merge * width + config["out_hidden_size"])
    feed_forward = (3 if in_windows else 2) * width * config["intermediate_size"]
    return Flops(
        projections=2.0 * depth * patches * 4 * width**2,
        layers=2.0 * (depth * patches * feed_forward + merging),
        attention=attend(width, pairs),
        edge=2.0 * patches * 3 * config["temporal_patch_size"] * config["patch_size"] ** 2 * width,
    )


def within_windows(length: int, window: int) -> int:
    """Pairs of places that lie in one window, of `length` places cut into windows; the last may be shorter."""
    return length // window * window**2 + (length % window) ** 2


def clip_tower(config: Config, text_width: int) -> Flops:
    """LLaVA's CLIP tower on its one size of image, with a class token, and the projector into the language model."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    places = (config["image_size"] // config["patch_size"]) ** 2
    tokens = places + 1
    return Flops(
        projections=2.0 * layers * tokens * 4 * width**2,
        layers=2.0 * layers * tokens * 2 * width * config["intermediate_size"]
        + 2.0 * places * (width * text_width + text_width**2),
        attention=layers * attend(width, tokens**2),
        edge=2.0 * places * 3 * config["patch_size"] ** 2 * width,
    )


def vlm(config: Config, patches: tuple[int, int], tokens: int, predicted: int) -> Flops:
    """An image of so many rows and columns of patches in a row of `tokens`, of which `predicted` are asked for, told to a VLM.

    Raises ValueError for a model_type that has no formula here.
    """
    kind, vision, text = config["model_type"], config["vision_config"], config["text_config"]
    if kind in ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"):
        return qwen_tower(vision, *patches) + language_model(text, tokens, predicted)
    if kind == "llava":
        return clip_tower(vision, text["hidden_size"]) + language_model(text, tokens, predicted)
    raise ValueError(f"operations of a {kind} are not counted: there are formulas for the Qwen-VLs and llava")
