"""What a writer must offer: a VLM that is asked for text, here or behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from actors.messages import Chance, WriteRequest, Written


class Writer(Protocol):
    """Answers chats, each by itself: what it says to one depends on that one alone.

    Images are uint8 RGB [H, W, 3] of any sizes; requests refer to them by number, and several may refer to one. What it has no answer
    to has a reason instead: never a text, or a probability, of its own making.
    """

    def write(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], max_tokens: int | None = None
    ) -> tuple[Written, ...]:
        """A text for each request, in order; of `max_tokens` at most, if not as many as its options say."""

    def chances(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], answer: str
    ) -> tuple[Chance, ...]:
        """How likely each next turn begins with the word `answer`, a token, in whatever case."""

    def info(self) -> dict[str, Any]:
        """Where and how it runs, and on what."""
