"""Stable Diffusion 3 and 3.5, before one is loaded."""

from __future__ import annotations

from actors.families.image import (
    TWO_ENCODERS,
    Block,
    Config,
    Configs,
    ImageFacts,
    Network,
    Saved,
    Shape,
    scale_of_autoencoder,
)

LONGEST_T5 = 512  # tokens
T5 = "text_encoder_3"  # may be left out
WITHOUT_T5 = 256  # zero vectors in its place: what diffusers' pipeline feeds by default


class Sd3Facts(ImageFacts):
    """The MMDiT with two CLIP encoders and, where the folder has one, T5."""

    family = "actors.diffusion.families.sd3:StableDiffusion3"
    parts = TWO_ENCODERS
    transformer = "SD3Transformer2DModel"

    @staticmethod
    def shape(configs: Configs, max_sequence_length: int) -> Shape:
        config, clip = configs["transformer"], configs["text_encoder"]
        unread = WITHOUT_T5 if max_sequence_length == 0 and T5 in configs else 0
        return Shape(
            channels=config["in_channels"],
            scale=scale_of_autoencoder(configs),
            patch=config.get("patch_size", 2),
            text=clip.get("max_position_embeddings", 77) + max_sequence_length + unread,
            caption_width=config["joint_attention_dim"],
            longest=LONGEST_T5,
            unread=unread,
        )

    @staticmethod
    def network(config: Config, everything: bool) -> Network:
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

    @staticmethod
    def left_out(max_sequence_length: int) -> tuple[str, ...]:
        return () if max_sequence_length else (T5,)
