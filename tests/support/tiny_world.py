"""A whole run's needs in a folder, made in a second: tiny random models, prompt files, a recipe."""

from __future__ import annotations

from pathlib import Path

from tests.support.shapes import write_shapes
from toy.random_models.sd3 import make_tiny_sd3
from toy.random_models.vlms import make_tiny_llava


def make_tiny_world(folder: Path) -> Path:
    """Returns the recipe's path."""
    make_tiny_sd3(folder / "image")
    make_tiny_llava(folder / "judge")
    return write_shapes(folder, image=f"{folder}/image", judge=f"{folder}/judge", learning_rate=1e-3)
