"""What CLIP or SigLIP needs for a group of images beside its weights, as a reward worker runs it."""

from __future__ import annotations

from actors.vlm.limits import IMAGES_AT_ONCE
from pipelines.preflight.memory.models import Judge

WIDTHS = 6  # of a token at the widest place of a layer: the residual stream, queries, keys, values, what comes out and what is added
FLOAT32 = 4


def pass_bytes(judge: Judge, images: int, element: int, gpu: bool) -> int:
    """The peak: the pixels of all images as floats, and the widest layer of the vision tower over one pass."""
    vision = judge.vision
    size, width = vision["image_size"], vision["hidden_size"]
    patches = (size // vision["patch_size"]) ** 2 + 1
    rows = min(images, IMAGES_AT_ONCE["cuda" if gpu else "cpu"])
    pixels = 3 * size**2 * (images * FLOAT32 + rows * element)
    return pixels + rows * patches * (WIDTHS * width + vision["intermediate_size"]) * element
