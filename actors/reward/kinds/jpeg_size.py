"""JPEG size: how many kilobytes an image takes. It needs no model: DDPO's compressibility, and a reward for tests."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from actors.messages import Prompt, Scores
from actors.reward.options import RewardOptions


class JpegSizeOptions(RewardOptions):
    """The size of an image as JPEG, in kB = 1,000 bytes (docs/rewards/jpeg_size.md)."""

    reads_caption: ClassVar[bool] = False

    type: Literal["jpeg_size"] = "jpeg_size"
    prefers: Literal["large", "small"] = "large"
    """Large files, which have much detail, or small ones: the reward is then minus the size."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG's."""

    @property
    def below_zero(self) -> bool:
        """Minus a size is."""
        return self.prefers == "small"

    def load(self) -> JpegSize:
        """See `RewardOptions.load`."""
        return JpegSize(self)


class JpegSize:
    """R(X) = bytes of X as JPEG / 1000, or minus that where small files are preferred.

    Source: DDPO (arXiv 2305.13301), whose incompressibility and compressibility these are, at its quality of 95.
    """

    device, dtype = "cpu", "uint8"

    def __init__(self, options: JpegSizeOptions) -> None:
        self.quality, self.sign = options.quality, 1 if options.prefers == "large" else -1

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`."""
        start = time.perf_counter()
        rewards = tuple(self.sign * self._bytes(image_HWC) / 1000 for image_HWC in images_KHWC)
        return Scores(rewards, seconds=time.perf_counter() - start)

    def _bytes(self, image_HWC: np.ndarray) -> int:
        stream = BytesIO()
        Image.fromarray(image_HWC).save(stream, "JPEG", quality=self.quality)
        return stream.tell()
