"""The error for what a user gave and no worker can use: a folder that is no model, a size that a model does not draw."""

from __future__ import annotations

from typing import ClassVar

UNUSABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)  # what a library raises for a config or an input that it cannot use


class Mistake(ValueError):
    """What was given cannot be used. Its text says what was given, what is allowed and what to do."""

    exit_code: ClassVar[int] = 2  # of a program that ends by it (docs/decisions/0026)
