"""An event: what happened to a run besides training; a line of events.jsonl. Its kinds are in events.py."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

Record = dict[str, Any]


class Event(BaseModel):
    """Something that happened. Its kind is the name of its class, in small letters."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    kind: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def line(self) -> Record:
        """What is written of it: the Unix time of now, the kind, and its fields."""
        fields = {name.rstrip("_"): value for name, value in self.model_dump().items()}
        return {"time": round(time.time(), 3), "kind": self.kind, **fields}


@dataclass(frozen=True)
class Line:
    """A line of events.jsonl. event: None for a kind, or fields, that this version does not know."""

    time: float | None
    kind: str
    fields: Record
    event: Event | None


def read_line(line: Record, kinds: Mapping[str, type[Event]]) -> Line:
    """What a line says. kinds: those that are known, by name."""
    at, kind = line.get("time"), str(line.get("kind", ""))
    fields = {name: value for name, value in line.items() if name not in ("time", "kind")}
    try:
        event = kinds[kind].model_validate({_attribute(name): value for name, value in fields.items()})
    except (KeyError, ValidationError):
        event = None
    return Line(at if isinstance(at, int | float) else None, kind, fields, event)


def _attribute(name: str) -> str:
    """A field's name in Python, where `from` cannot be one."""
    return f"{name}_" if iskeyword(name) else name
