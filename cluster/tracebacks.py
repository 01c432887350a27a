"""What is told of an error that a worker raised, where its whole traceback would hide what it says."""

from __future__ import annotations

import traceback

START_LINES = 20


def last_lines(error: Exception) -> str:
    """The end of its traceback: the last calls that led to it, and its text."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(lines if len(lines) <= START_LINES else ["...", *lines[-START_LINES:]])
