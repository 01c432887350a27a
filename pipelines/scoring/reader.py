"""The worker that reads images: what a reward scores. Importable without torch."""

from __future__ import annotations

import numpy as np

from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow


class ImageReader:
    """Reads rows of an image set."""

    def read(self, rows: tuple[ImageRow, ...]) -> tuple:
        """((problem, bytes) of each row, then each image, uint8 [1, H, W, 3], or None). Raises StorageError.

        The problem is empty where there is none.
        """
        read = [self._read(row) for row in rows]
        said = tuple((problem, 0 if image_KHWC is None else image_KHWC.nbytes) for problem, image_KHWC in read)
        return said, *(image_KHWC for _, image_KHWC in read)

    def _read(self, row: ImageRow) -> tuple[str, np.ndarray | None]:
        try:
            return "", read_image(row)[None]
        except ValueError as error:
            return str(error), None
