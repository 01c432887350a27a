"""LLaVA, before one is loaded."""

from __future__ import annotations

from actors.families.vlm import Seen, Settings, VlmFacts, patches_of


class LlavaFacts(VlmFacts):
    """Every image is one square, and a fixed number of tokens."""

    family = "actors.vlm.llava:Llava"
    one_size = True

    @staticmethod
    def seen(config: Settings, processor: Settings, height: int, width: int, image_pixels: int | None) -> Seen:
        patches = patches_of(config)
        return Seen(patches, patches)

    @staticmethod
    def obstacle(config: Settings) -> str | None:
        vision = config.get("vision_config")
        if isinstance(vision, dict) and vision.get("model_type") == "pixtral":
            return "has a Pixtral vision tower: EchoRay's LLaVA reads CLIP and SigLIP towers only"
        return None
