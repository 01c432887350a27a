"""What benchmarks of a VLM ask: which model, of which shape, and images of noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toy.random_models.vlms import make_tiny_llava

JUDGE = Path("toy/models/judge")


@dataclass(frozen=True)
class VlmCase:
    """A text of so many `tokens`; the VLM is the one in `model`, or has this shape and random weights."""

    name: str
    tokens: int
    vocab_size: int = 512
    width: int = 128
    layers: int = 3
    image_size: int = 32
    model: str | None = None

    def noise(self, count: int) -> np.ndarray:
        """Images, uint8 [count, H, W, 3]."""
        shape = (count, self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def folder(self, parent: Path) -> Path:
        """The model's folder: the one that is named, or one made under `parent`."""
        if self.model:
            return Path(self.model)
        folder = parent / f"{self.vocab_size}-{self.width}-{self.layers}-{self.image_size}"
        if not folder.exists():
            shape = {"width": self.width, "layers": self.layers, "heads": 4}
            make_tiny_llava(folder, self.vocab_size, **shape, image_size=self.image_size, patch_size=8)
        return folder
