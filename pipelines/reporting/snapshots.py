"""The sample grids of a run: the same held-out prompts and noise, drawn by the policy as it learns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WORDS = {"before": "before", "during": "step {}", "after": "after"}  # in the order of time
NAME = re.compile(rf"(?P<tag>{'|'.join(WORDS)})(-(?P<step>\d+))?")


@dataclass(frozen=True)
class Snapshot:
    """A sample grid: the picture, and when its images were drawn."""

    path: Path
    tag: str
    step: int

    @property
    def words(self) -> str:
        """When, for people."""
        return WORDS[self.tag].format(self.step)


def snapshots_of(samples: Path) -> list[Snapshot]:
    """Those in a run's folder of samples, in the order of time."""
    matches = [(path, NAME.fullmatch(path.stem)) for path in samples.glob("*.png")]
    found = [Snapshot(path, match["tag"], int(match["step"] or 0)) for path, match in matches if match]
    return sorted(found, key=lambda one: (list(WORDS).index(one.tag), one.step))
