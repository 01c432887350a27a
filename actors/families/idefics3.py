"""Idefics3 and SmolVLM, before one is loaded."""

from __future__ import annotations

import math

from actors.families.vlm import Seen, Settings, VlmFacts, patches_of

AROUND = 16  # tokens of the text around a frame


class Idefics3Facts(VlmFacts):
    """An image is cut into square frames, and a last frame shows it whole."""

    family = "actors.vlm.idefics3:Idefics3"

    @staticmethod
    def seen(config: Settings, processor: Settings, height: int, width: int, image_pixels: int | None) -> Seen:
        patches, frames = patches_of(config), _frames(config, processor, height, width, image_pixels)
        shrink = config.get("scale_factor", 2) ** 2
        return Seen(frames * (patches // shrink + AROUND), frames * patches)


def _frames(config: Settings, processor: Settings, height: int, width: int, image_pixels: int | None) -> int:
    edge = (processor.get("max_image_size") or {}).get("longest_edge") or config["vision_config"]["image_size"]
    longest = (processor.get("size") or {}).get("longest_edge") or 4 * edge
    if image_pixels is not None:
        longest = math.isqrt(image_pixels) // edge * edge
    factor = longest / max(height, width)
    return math.ceil(height * factor / edge) * math.ceil(width * factor / edge) + 1
