"""Tables whose `type` says which keys they have: those of a registry, and those that a user brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from actors.options import Table
from actors.plugins import class_named


@dataclass(frozen=True)
class Chosen:
    """The annotation of such a table: the classes of options by their names, and what all of them are derived from.

    `default` is the type of a table that names none. `table` makes the recipe's table of a class of options,
    `several` the table of one in an array of them; None: there is one alone.
    """

    key: str
    registry: Mapping[str, type[Table]]
    base: type[Table]
    default: str
    table: Callable[[Any], type[Table]] = lambda options: options
    several: Callable[[Any], type[Table]] | None = None

    def kinds(self) -> dict[str, type[Table]]:
        """The table of each name in the registry."""
        return {name: self.table(options) for name, options in self.registry.items()}

    def model_of(self, given: Any) -> type[Table]:
        """The table whose keys `given` may have. Raises ValueError for a type that there is not."""
        name = given.get("type", self.default) if isinstance(given, dict) else self.default
        if not isinstance(name, str):
            allowed = {"expected": ", ".join(f"'{kind}'" for kind in self.registry)}
            problem = InitErrorDetails(type="literal_error", loc=("type",), input=name, ctx=allowed)
            raise ValidationError.from_exception_data(self.key, [problem])
        return self.table(class_named(name, self.registry, self.base, f"{self.key}.type"))

    @property
    def of_several(self) -> Chosen:
        """The choice of each table in an array."""
        return replace(self, table=self.several or self.table, several=None)

    def read(self, given: Any) -> Any:
        """The table, or the tables of an array, checked. Raises ValueError, or pydantic's own error for its keys."""
        if self.several and isinstance(given, tuple):
            each = Annotated[Any, self.of_several]
            return TypeAdapter(tuple[each, ...]).validate_python(given)
        return given if isinstance(given, self.base) else self.model_of(given).model_validate(given)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """What pydantic asks of an annotation."""
        return core_schema.no_info_plain_validator_function(self.read)
