"""Facts of a family of vision-language models, known before one is loaded: what it makes of an image.

Driver, doctor and planner read it, so that it loads no torch. The family itself, which workers load, is a `Vlm`
(actors/vlm/family.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a VLM makes of one image: tokens of the language model, patches of the vision tower."""

    tokens: int
    patches: int


class VlmFacts:
    """Facts of one family. The class is used as it is, never made."""

    family: ClassVar[str]
    """The `Vlm` that workers load, as `module:Name`."""
    one_size: ClassVar[bool] = False
    """Whether it reads all images at one size, so that `reward.image_pixels` means nothing."""

    @staticmethod
    def seen(config: Settings, processor: Settings, height: int, width: int, image_pixels: int | None) -> Seen:
        """An image of this size in pixels, shrunk to a budget of `image_pixels` if there is one.

        `config` is the model's, `processor` what its image processor's file says.
        """
        raise NotImplementedError

    @staticmethod
    def obstacle(config: Settings) -> str | None:
        """Why a model of this config cannot be read, though it is of the family's type."""
        return None


def patches_of(config: Settings) -> int:
    """Of a vision tower that reads squares of one size."""
    vision = config["vision_config"]
    return int(vision["image_size"] // vision["patch_size"]) ** 2
