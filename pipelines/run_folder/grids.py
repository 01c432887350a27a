"""Grids of sample images: a PNG with captions, which carries its geometry so that the report can take it apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pipelines.run_folder.json_files import Damaged

TEXT_KEY = "echoray-grid"
SHOWN_MIN, SHOWN_MAX = 96, 256  # pixels of an image's longer side in a grid
GAP, MARGIN, CAPTION_HEIGHT, FONT_SIZE = 6, 16, 24, 14
PAPER, INK = (250, 250, 248), (40, 40, 44)


class GridRow(NamedTuple):
    """A caption and its images, at the size in which they were drawn if that is small, at the shown size otherwise."""

    caption: str
    images: list[Image.Image]


def draw_grid(rows: Sequence[tuple[str, np.ndarray]]) -> tuple[Image.Image, PngImagePlugin.PngInfo]:
    """A picture of `rows` (caption, images uint8 [K, H, W, 3]), and the PNG text that says where each image lies.

    Small images are enlarged by a whole factor without smoothing, so that their pixels are seen; large ones are
    reduced. All rows have the same image size. Raises ValueError for anything else.
    """
    if not rows:
        raise ValueError("A grid needs at least one row of images")
    for caption, images_KHWC in rows:
        if images_KHWC.dtype != np.uint8 or images_KHWC.ndim != 4 or images_KHWC.shape[-1] != 3:
            raise ValueError(
                f"Images must be uint8 [K, H, W, 3], not {images_KHWC.dtype} {images_KHWC.shape} ({caption!r})"
            )
    height, width = rows[0][1].shape[1:3]
    if any(images_KHWC.shape[1:3] != (height, width) for _, images_KHWC in rows):
        raise ValueError("The images of a grid must all have the same height and width")
    factor = shown_factor(height, width)
    cell_h, cell_w = round(height * factor), round(width * factor)
    columns = max(len(images_KHWC) for _, images_KHWC in rows)
    row_height = CAPTION_HEIGHT + cell_h + GAP
    picture_width = 2 * MARGIN + columns * (cell_w + GAP) - GAP
    picture = Image.new("RGB", (max(picture_width, 320), 2 * MARGIN + len(rows) * row_height - GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=FONT_SIZE)
    resample = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    boxes: list[list[tuple[int, int]]] = []
    for index, (caption, images_KHWC) in enumerate(rows):
        top = MARGIN + index * row_height
        text = _fitted(draw, font, caption, picture.width - 2 * MARGIN)
        draw.text((MARGIN, top + CAPTION_HEIGHT // 2 - 2), text, fill=INK, font=font, anchor="lm")
        corners = [(MARGIN + k * (cell_w + GAP), top + CAPTION_HEIGHT) for k in range(len(images_KHWC))]
        for corner, image_HWC in zip(corners, images_KHWC, strict=True):
            picture.paste(Image.fromarray(image_HWC).resize((cell_w, cell_h), resample), corner)
        boxes.append(corners)
    geometry = {
        "captions": [caption for caption, _ in rows],
        "corners": boxes,
        "cell": [cell_w, cell_h],
        "factor": factor,
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt(TEXT_KEY, json.dumps(geometry))
    return picture, info


def read_grid(path: Path) -> list[GridRow]:
    """The rows of a PNG that `draw_grid` made, enlarged images at their own size again; empty for another picture. Raises Damaged."""
    try:
        with Image.open(path) as opened:
            text = opened.info.get(TEXT_KEY)
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # as PIL has it
        raise Damaged(path, str(error)) from None
    if text is None:
        return []
    geometry = json.loads(text)
    (cell_w, cell_h), factor = geometry["cell"], geometry["factor"]
    rows = []
    for caption, corners in zip(geometry["captions"], geometry["corners"], strict=True):
        images = [picture.crop((x, y, x + cell_w, y + cell_h)) for x, y in corners]
        if factor > 1:
            images = [image.resize((cell_w // factor, cell_h // factor), Image.Resampling.NEAREST) for image in images]
        rows.append(GridRow(caption, images))
    return rows


def shown_factor(height: int, width: int) -> int | float:
    """The factor by which an image is enlarged (whole) or reduced (below 1) to be seen well in a grid."""
    side = max(height, width)
    return -(-SHOWN_MIN // side) if side <= SHOWN_MAX else SHOWN_MAX / side


def _fitted(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int
) -> str:
    """`text` on one line, cut with an ellipsis where it does not fit."""
    text = " ".join(text.split())
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
