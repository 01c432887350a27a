"""The [writer] table: the keys of a pool, and those of the writer that its `type` names."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from actors.writer.options import WriterOptions
from actors.writer.registry import WRITERS
from pipelines.recipe.choices import Chosen
from pipelines.recipe.tables import Pool

WRITER = "writer"


class WriterTable(Pool):
    """A pool whose workers write. Its other keys are those of `kind`."""

    kind: ClassVar[type[WriterOptions]]

    @property
    def options(self) -> WriterOptions:
        """What a worker gets: all but the pool's keys."""
        return self.part(self.kind)


@cache
def table_of(options: type[WriterOptions]) -> type[WriterTable]:
    """The table of a writer. Raises ValueError for options of the user's own with a key of the pool's."""
    if taken := sorted(options.model_fields.keys() & Pool.model_fields.keys()):
        raise ValueError(
            f"{options.__module__}:{options.__name__} has a key {taken[0]!r}, which the pool has: rename it"
        )
    names = {"kind": options, "__module__": __name__, "__doc__": options.__doc__}
    return type(options.__name__.replace("Options", "Table"), (options, WriterTable), names)


if TYPE_CHECKING:

    class Writer(WriterTable, WriterOptions):
        """What every table of a writer has."""
else:
    Writer = Annotated[Any, Chosen(WRITER, WRITERS, WriterOptions, "vlm", table_of)]
