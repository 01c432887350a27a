"""How a program ends that cannot do what it was asked: by a user's mistake, or by a run that failed."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave; its text says what was given, what is allowed and what to do. Exit code 2."""


class RunFailed(RuntimeError):
    """The run cannot go on; the text says why."""
