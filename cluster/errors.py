"""Errors that end a program in their own words, without a traceback: `exit_code` says how (docs/decisions/0026)."""

from __future__ import annotations

from typing import ClassVar


class ClusterError(Exception):
    """What was asked of the cluster did not come about; the text says why."""

    exit_code: ClassVar[int] = 1


class UserError(ClusterError):
    """What was asked for cannot be done; the text says what can."""

    exit_code = 2
