"""What the options of every writer have. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.models.kinds import ModelOptions

if TYPE_CHECKING:
    from actors.writer.writer import Writer


class WriterOptions(ModelOptions):
    """The keys of every writer. A class stands beside the writer that it makes."""

    type: str
    """Which writer: a name of the registry, or `package.module:Name`."""

    def load(self) -> Writer:
        """The writer. Raises Mistake for what cannot be loaded or used. Only a worker calls it: it may load torch."""
        raise NotImplementedError
