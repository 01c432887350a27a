"""Z-Image, before one is loaded."""

from __future__ import annotations

from actors.families.image import (
    ONE_ENCODER,
    Block,
    Config,
    Configs,
    ImageFacts,
    Network,
    Saved,
    Shape,
    scale_of_autoencoder,
)

TOKENS = 32  # the network pads to whole blocks of so many


class ZImageFacts(ImageFacts):
    """One stream of image and caption. No guidance is 0 here."""

    family = "actors.diffusion.families.z_image:ZImage"
    parts = ONE_ENCODER
    transformer = "ZImageTransformer2DModel"

    @staticmethod
    def shape(configs: Configs, max_sequence_length: int) -> Shape:
        config = configs["transformer"]
        return Shape(
            channels=config["in_channels"],
            scale=scale_of_autoencoder(configs),
            text=max_sequence_length,
            caption_width=config["cap_feat_dim"],
            longest=(config["axes_lens"][0] - 2) // TOKENS * TOKENS,
            block=TOKENS,
            unguided=0.0,
        )

    @staticmethod
    def network(config: Config, everything: bool) -> Network:
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
