"""FLUX.1, before one is loaded."""

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
from actors.families.sd3 import LONGEST_T5


class FluxFacts(ImageFacts):
    """Blocks with a stream each for image and caption, then blocks with one for both; T5 and a pooled CLIP."""

    family = "actors.diffusion.families.flux:Flux"
    parts = TWO_ENCODERS
    transformer = "FluxTransformer2DModel"

    @staticmethod
    def shape(configs: Configs, max_sequence_length: int) -> Shape:
        config = configs["transformer"]
        return Shape(
            channels=config["in_channels"] // 4,
            scale=scale_of_autoencoder(configs),
            text=max_sequence_length,
            caption_width=config["joint_attention_dim"],
            longest=LONGEST_T5,
            guidance="told" if config.get("guidance_embeds") else "none",
        )

    @staticmethod
    def network(config: Config, everything: bool) -> Network:
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
