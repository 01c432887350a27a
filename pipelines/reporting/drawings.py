"""Pictures that were drawn for people: a file each, and a grid of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.run_folder.grids import draw_grid

SLUG = 40  # characters of a prompt in a file's name
Sheet = tuple[str, str, tuple[int, ...], np.ndarray]
"""Who drew, the prompt, the seeds, the images [K, H, W, 3]."""


def write(out: Path, rows: Sequence[Sheet], prompts: int) -> None:
    """Every picture under its prompt's number and its seed, and the grid of all. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (label, caption, seeds, images_KHWC) in enumerate(rows):
        name = f"{number % prompts + 1:02d}-{slug(caption)}"
        for seed, image in zip(seeds, images_KHWC, strict=True):
            Image.fromarray(image).save(out / f"{name}-seed-{seed}-{label.partition(' ')[0]}.png")
    picture, text = draw_grid(ordered(rows, prompts))
    picture.save(out / "grid.png", pnginfo=text)


def ordered(rows: Sequence[Sheet], prompts: int) -> list[tuple[str, np.ndarray]]:
    """The grid's rows: for each prompt, the base and what was trained one below the other."""
    sheets = [rows[number] for prompt in range(prompts) for number in range(prompt, len(rows), prompts)]
    return [
        (f"{label}, seeds {seeds[0]} to {seeds[-1]}: {caption}", images) for label, caption, seeds, images in sheets
    ]


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:SLUG] or "drawing"
