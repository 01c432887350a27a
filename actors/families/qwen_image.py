"""Qwen-Image, before one is loaded."""

from __future__ import annotations

from actors.families.image import ONE_ENCODER, Block, Config, Configs, ImageFacts, Network, Saved, Shape

LONGEST = 1024  # tokens that it takes of its VLM


class QwenImageFacts(ImageFacts):
    """An MMDiT whose captions are read by a vision-language model."""

    family = "actors.diffusion.families.qwen_image:QwenImage"
    parts = ONE_ENCODER
    transformer = "QwenImageTransformer2DModel"

    @staticmethod
    def shape(configs: Configs, max_sequence_length: int) -> Shape:
        config = configs["transformer"]
        return Shape(
            channels=config["in_channels"] // 4,
            scale=2 ** len(configs["vae"]["temperal_downsample"]),
            text=max_sequence_length,
            caption_width=config["joint_attention_dim"],
            longest=LONGEST,
        )

    @staticmethod
    def network(config: Config, everything: bool) -> Network:
        """As SD3 with normed q and k, without dual attention, and with a caption stream that is whole in the last block."""
        width = config["num_attention_heads"] * config["attention_head_dim"]
        layers = config["num_layers"]
        stream = Saved(14 + 5 * everything, 2, 4 + 2 * everything)
        matrices = layers * 2 * (8 * width + (10 * width if everything else 0))
        return Network(width, (Block(layers, stream, stream),), matrices)
