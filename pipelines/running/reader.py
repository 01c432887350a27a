"""The worker that reads images: what is scored or described. Importable without torch."""

from __future__ import annotations

import numpy as np

from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow


class ImageReader:
    """Reads rows of an image set."""

    def read(self, rows: tuple[ImageRow, ...]) -> tuple[tuple[tuple[str, int], ...], tuple[np.ndarray | None, ...]]:
        """((problem, bytes) of each row, each image, uint8 [H, W, 3], or None). Raises StorageError.

        The problem is empty where there is none.
        """
        problems, images = zip(*(self._read(row) for row in rows), strict=True)
        num_bytes = (0 if image_HWC is None else image_HWC.nbytes for image_HWC in images)
        return tuple(zip(problems, num_bytes, strict=True)), images

    def _read(self, row: ImageRow) -> tuple[str, np.ndarray | None]:
        try:
            return "", read_image(row)
        except ValueError as error:
            return str(error), None
