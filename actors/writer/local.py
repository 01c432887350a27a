"""A VLM that writes in the worker's own process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from actors.options import Count
from actors.vlm.options import Decoding, VlmTable
from actors.writer.options import WriterOptions

if TYPE_CHECKING:
    import numpy as np

    from actors.messages import Chance, WriteRequest, Written


class LocalWriterOptions(Decoding, VlmTable, WriterOptions):
    """A frozen VLM on the worker's own device (docs/captioning.md)."""

    type: Literal["vlm"] = "vlm"
    rows: Count = 8
    """Texts that are written side by side, always so many: another number may move a text by rounding."""

    def load(self) -> LocalWriter:
        """See `WriterOptions.load`."""
        return LocalWriter(self)


class LocalWriter:
    """A `Writer` around a frozen VLM."""

    def __init__(self, options: LocalWriterOptions) -> None:
        self.options, self.vlm = options, options.load_writing()

    def write(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], max_tokens: int | None = None
    ) -> tuple[Written, ...]:
        """See `Writer.write`."""
        from actors.vlm.generate import write

        how = self.options if max_tokens is None else self.options.model_copy(update={"max_tokens": max_tokens})
        return write(self.vlm, requests, images, how, self.options.rows)

    def chances(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], answer: str
    ) -> tuple[Chance, ...]:
        """See `Writer.chances`. Raises ValueError if the VLM has no such token."""
        from actors.vlm.likelihood import chances

        return chances(self.vlm, requests, images, answer)

    def info(self) -> dict[str, Any]:
        """See `Writer.info`."""
        import transformers

        from actors.device import where

        here = where(self.vlm.device, self.vlm.lm_head.dtype)
        return {**here, "model": self.options.model, "transformers": transformers.__version__}
