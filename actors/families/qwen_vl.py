"""Qwen2.5-VL and Qwen3-VL, before one is loaded."""

from __future__ import annotations

import math

from actors.families.vlm import Seen, Settings, VlmFacts


class QwenVlFacts(VlmFacts):
    """An image is read at its own size, within a budget of pixels."""

    family = "actors.vlm.qwen_vl:QwenVl"

    @staticmethod
    def seen(config: Settings, processor: Settings, height: int, width: int, image_pixels: int | None) -> Seen:
        """Both sides to whole tokens, then the area between the least and the most by one factor, as Qwen's `smart_resize`."""
        vision = config["vision_config"]
        merge = vision["spatial_merge_size"]
        unit = vision["patch_size"] * merge
        size = processor.get("size") or {}
        least = size.get("shortest_edge") or processor.get("min_pixels") or unit**2
        most = size.get("longest_edge") or processor.get("max_pixels") or height * width
        if image_pixels is not None:
            least, most = min(least, image_pixels), image_pixels
        rows, columns = max(1, round(height / unit)), max(1, round(width / unit))
        if rows * columns * unit**2 > most:
            factor = math.sqrt(height * width / most)
            rows, columns = max(1, math.floor(height / factor / unit)), max(1, math.floor(width / factor / unit))
        elif rows * columns * unit**2 < least:
            factor = math.sqrt(least / (height * width))
            rows, columns = math.ceil(height * factor / unit), math.ceil(width * factor / unit)
        return Seen(rows * columns, rows * columns * merge**2)
