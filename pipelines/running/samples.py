"""Small copies of images in the run folder, so that a report needs no more."""

from __future__ import annotations

from PIL import Image

from cluster.storage.files import StorageError
from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow
from pipelines.run_folder.folder import RunFolder

SIDE = 256  # pixels, at most


def small_copy(row: ImageRow, number: int, folder: RunFolder) -> str:
    """Where the copy of a row's image lies in the folder; empty if the image cannot be read now."""
    path = folder.path / "samples" / f"row-{number:08d}.png"
    if not path.is_file():
        try:
            image = Image.fromarray(read_image(row))
        except (ValueError, StorageError):
            return ""
        image.thumbnail((SIDE, SIDE))
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    return path.relative_to(folder.path).as_posix()
