"""Errors that end a program in their own words, without a traceback: `exit_code` says how (docs/decisions/0026)."""

from __future__ import annotations

from typing import ClassVar


class UserError(ValueError):
    """A mistake in what the user gave; its text says what was given, what is allowed and what to do."""

    exit_code: ClassVar[int] = 2


class Failed(RuntimeError):
    """A program cannot go on, by nobody's mistake; the text says why."""

    exit_code: ClassVar[int] = 1


class RunFailed(Failed):
    """The run cannot go on."""
