"""What a user may set: the base of all tables of options, and the kinds of values in them. Loads neither torch nor ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from actors.paths import home_resolved, located

T = TypeVar("T", bound="Table")


class Change(Enum):
    """Marks a key, or a whole table, that a run may change when it is resumed (docs/using_a_run.md); others it may not."""

    FREE = "decides nothing"
    BY_CONTENT = "what lies at the path is compared, not the path"
    ANEW = "sums are taken in another order, and the digest begins anew"
    RECORDED = "is recorded, and from there on the digest is another one"
    EVALUATED = "is recorded, and earlier evaluations do not compare"


class Table(BaseModel):
    """Options that stand together: unknown keys are errors, values are not coerced from other types, and numbers are finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def part(self, kind: type[T]) -> T:
        """The options that come from a class which this one extends, as an object of that class."""
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})


@dataclass(frozen=True)
class Input:
    """Marks a key that names what a run reads; `hub`: it may also be a hub's name."""

    hub: bool = False


def read_by(read: Callable[[str], str]) -> AfterValidator:
    """What `read` makes of a text; its ValueError becomes a message with the key and what was given."""

    def validate(text: str) -> str:
        try:
            return read(text)
        except ValueError as error:
            raise PydanticCustomError("place", "{why}", {"why": str(error)}) from error

    return AfterValidator(validate)


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]

_readable = read_by(lambda text: located(home_resolved(text)))
File = Annotated[str, _readable, Input()]
"""A path, which leads from the current folder, else from the repository's root."""
Model = Annotated[str, _readable, Input(hub=True)]
"""Such a path, or a hub's name."""
