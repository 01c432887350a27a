"""What executors that live in the driver's process have in common: nobody reaches the run from outside, and payloads lie in no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.tasks import Command, Introduction


class InProcess:
    """The part of an executor (cluster/tasks.py) that faces the outside, where there is none."""

    def exchange(self, status: Mapping[str, Any]) -> list[Command]:
        return []

    def answer(self, command_id: int, text: str) -> None:
        pass

    def introductions(self) -> list[Introduction]:
        return []

    def object_store_bytes(self) -> int | None:
        return None
