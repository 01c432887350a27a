"""Pictures from files as this house shows them to models: 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of any 8-bit picture, turned upright as its EXIF data say; what is transparent is laid on white.

    Raises ValueError for pictures of 16 or 32 bits a channel (modes I and F), whose range is not known.
    """
    if image.mode[0] in "IF":
        raise ValueError(
            f"a picture of the mode {image.mode} has more than 8 bits a channel: save it as 8-bit PNG or JPEG"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"))
