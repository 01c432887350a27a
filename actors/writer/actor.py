"""The workers that write as actors: a thin shell around a `Writer`, importable without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.messages import Chance, WriteRequest, WriteTrial, Written
from actors.process import Process, leaves_room, prepare

if TYPE_CHECKING:
    import numpy as np

    from actors.writer.options import WriterOptions


class WriterActor:
    """Answers chats. `trial` is tried before the first task; `pool` is what messages call the recipe's table.

    `images` are blocks, uint8 [K, H, W, 3] each; requests refer to the images of all of them in order. Raises Mistake for what can be
    neither loaded nor used.
    """

    def __init__(
        self, process: Process, options: WriterOptions, trial: WriteTrial | None = None, pool: str = "writer"
    ) -> None:
        device = prepare(process, options.where) if options.models else options.where
        from actors.writer.trial import try_writer

        self.writer = options.on(device).load()
        if trial:
            try_writer(self.writer, options.in_words(pool), trial)

    @leaves_room
    def write(self, requests: tuple[WriteRequest, ...], *images: np.ndarray) -> tuple[Written, ...]:
        """See `Writer.write`."""
        return self.writer.write(requests, _flat(images))

    @leaves_room
    def chances(self, requests: tuple[WriteRequest, ...], answer: str, *images: np.ndarray) -> tuple[Chance, ...]:
        """See `Writer.chances`."""
        return self.writer.chances(requests, _flat(images), answer)

    def info(self) -> dict[str, Any]:
        """Where and how this worker runs, and on what."""
        return self.writer.info()


def _flat(blocks: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [image_HWC for images_KHWC in blocks for image_HWC in images_KHWC]
