"""Reads the images of a set, one by one: RGB as uint8. An error of a single image is reported for that image alone."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from cluster.storage import files
from cluster.storage.files import StorageError
from pipelines.data.images import IMAGE, ImageRow
from pipelines.data.prompt_files import Pieces

DEEP = ("I", "F")  # Pillow's modes of more than eight bits: it would cut their values


def read_image(row: ImageRow) -> np.ndarray:
    """uint8 [H, W, 3], turned as its camera says. Raises ValueError for what is no image, and StorageError for a place out of reach."""
    if row.problem:
        raise ValueError(row.problem)
    try:
        return decode(files.read(row.place) if row.row is None else _within(row.place, row.row))
    except StorageError:
        raise
    except FileNotFoundError:
        raise ValueError(f"there is no file {row.place}") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{row.place} cannot be read: {error}") from error


def decode(content: bytes) -> np.ndarray:
    """An image file as uint8 [H, W, 3]. Raises ValueError."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(DEEP):
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it with 8")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.UnidentifiedImageError:
        raise ValueError("it is no image that can be read" if content else "it is empty") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's for a broken PNG
        raise ValueError(f"the image is damaged: {error}") from error


def _within(place: str, row: int) -> bytes:
    """The image of a row of a Parquet file."""
    _, starts = _opened(place)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    found = _group(place, group)[row - int(starts[group])].as_py()
    content = found.get("bytes") if isinstance(found, dict) else found
    if not isinstance(content, bytes):
        raise ValueError(f"the column `{IMAGE}` holds no bytes")
    return content


@lru_cache(maxsize=4)
def _opened(place: str) -> tuple[pq.ParquetFile, np.ndarray]:
    """A file, and the first row of each of its row groups."""
    file = pq.ParquetFile(Pieces(place))
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return file, np.cumsum([0, *counts])[:-1]


@lru_cache(maxsize=1)
def _group(place: str, group: int) -> pa.ChunkedArray:
    """The images of a row group, as they stand in the file: rows come in order, so that each is read about once."""
    return _opened(place)[0].read_row_group(group, columns=[IMAGE])[IMAGE]
