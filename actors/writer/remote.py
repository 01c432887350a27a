"""A VLM that writes behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from actors.server.options import ServerTable
from actors.vlm.options import Drawing
from actors.writer.options import WriterOptions

if TYPE_CHECKING:
    import numpy as np

    from actors.messages import Chance, WriteRequest, Written


class RemoteWriterOptions(Drawing, ServerTable, WriterOptions):
    """A VLM behind a server that speaks OpenAI's API (docs/writing.md)."""

    type: Literal["remote"] = "remote"

    def load(self) -> RemoteWriter:
        """See `WriterOptions.load`. Raises Mistake if the environment lacks the key."""
        return RemoteWriter(self)


class RemoteWriter:
    """A `Writer` around a server."""

    def __init__(self, options: RemoteWriterOptions) -> None:
        from actors.vlm.remote import RemoteVlm

        self.options, self.vlm = options, RemoteVlm(options)

    def write(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], max_tokens: int | None = None
    ) -> tuple[Written, ...]:
        """See `Writer.write`."""
        return self.vlm.write(requests, images, self.options, max_tokens or self.options.max_tokens)

    def chances(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], answer: str
    ) -> tuple[Chance, ...]:
        """See `Writer.chances`."""
        return self.vlm.chances(requests, images, answer)

    def info(self) -> dict[str, Any]:
        """See `Writer.info`: of the server nothing but its name is known."""
        return {"model": self.options.model, "base_url": self.options.base_url}
