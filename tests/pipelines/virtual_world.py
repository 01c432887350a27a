"""Workers in virtual time whose checkpoints and shards are real, for tests of the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.storage import Storage
from pipelines.planning.stages import SleepingPolicy, Stage


class LoadablePolicy(SleepingPolicy):
    """A policy whose state is its version."""

    def load(self, files: dict) -> int:
        return 0

    def load_adapter(self, files: dict, version: int) -> tuple:
        return self.export(version)


@dataclass
class TimedStorage(Stage):
    """Writes a document in `seconds`, reads one in `read_s`, and does all else in no time."""

    read_s: float = 0.0

    def write(self, *document: Any) -> dict[str, Any]:
        self.work("write")
        return Storage().write(*document)

    def write_file(self, place: str, content: bytes) -> dict[str, Any]:
        return Storage().write_file(place, content)

    def read(self, place: str, names: list[str]) -> tuple:
        self.sleep(self.read_s)
        return Storage().read(place, names)

    def remove(self, places: list[str]) -> None:
        Storage().remove(places)


@dataclass
class TimedPacker(Stage):
    """Packs nothing, in `seconds`."""

    def pack(self, chunks: tuple, *images: np.ndarray) -> tuple[dict[str, Any], bytes]:
        return {"images": 0, "seconds": self.work("pack", chunks[0].step)}, b"shard"
