"""What a writer tries when it starts, so that a mistake is told before the run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actors.messages import Turn, WriteRequest, WriteTrial
from actors.mistake import UNUSABLE, Mistake

if TYPE_CHECKING:
    from actors.writer.writer import Writer

FEW = 8  # tokens


def try_writer(writer: Writer, name: str, trial: WriteTrial) -> None:
    """Asks about grey images. Raises Mistake if the writer cannot answer. `name`: what the message calls it."""
    images = [np.full((trial.height, trial.width, 3), 128, np.uint8)] * trial.images
    request = WriteRequest((Turn("user", (*range(trial.images), trial.query)),))
    try:
        (written,) = writer.write([request], images, FEW)
    except UNUSABLE as error:
        raise Mistake(f"{name} cannot write: {error}") from error
    if written.text is None:
        raise Mistake(f"{name} cannot write: {written.reason}")
