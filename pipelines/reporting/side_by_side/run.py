"""One of several runs side by side: its folder, read as far as it can be read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipelines.reporting.facts import STATUS_WORDS, notes
from pipelines.reporting.snapshots import Snapshot, snapshots_of
from pipelines.run_folder.folder import EVENTS, HELDOUT, METRICS, STATUS, SUMMARY, RunFolder
from pipelines.run_folder.grids import GridRow, read_grid
from pipelines.run_folder.json_files import Damaged
from pipelines.run_folder.records import HeldoutRecord, R, StepRecord, readable_records

Record = dict[str, Any]
Along = Literal["step", "image", "second"]
T = TypeVar("T")
NOTHING = "–"


@dataclass(frozen=True)
class Grid:
    """Sample images: the step of the policy that drew them, and a row a prompt."""

    step: int
    rows: Sequence[GridRow]


@dataclass(frozen=True)
class Run:
    """A run. place: its number among those compared. base, latest: its first and its last sample grid."""

    name: str
    place: int
    recipe: Record
    metrics: Sequence[StepRecord]
    heldout: Sequence[HeldoutRecord]
    status: str
    digest: str | None
    notes: Sequence[str]
    base: Grid | None = None
    latest: Grid | None = None

    @property
    def status_words(self) -> str:
        """How it ended, if it did."""
        return STATUS_WORDS.get(self.status, "unknown state")

    @property
    def steps(self) -> int:
        """How many are trained."""
        return self.metrics[-1].step if self.metrics else 0

    def at(self, along: Along) -> dict[int, float]:
        """By step, the base's 0 included: how many steps, images or seconds of the run lay behind.

        Seconds are those of the steps that stayed, evaluations on the way included: what a restart did again counts once.
        """
        steps = [record.step for record in self.metrics]
        if along == "step":
            return {step: float(step) for step in (0, *steps)}
        parts = [float(r.images) if along == "image" else r.seconds.get("step", 0.0) for r in self.metrics]
        return {0: 0.0, **dict(zip(steps, accumulate(parts), strict=True))}

    def value(self, path: str) -> Any:
        """A key of the recipe; None if it has no such key."""
        found: Any = self.recipe
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found


def read_run(path: Path, shown: str, name: str, place: int) -> Run:
    """A run of any program, perhaps while it goes on; `place` is its number among those compared.

    A damaged file is left out, of records only the lines that cannot be read, and a note says so. Raises UserError if
    `path`, `shown` to the user, holds no run, or if its recipe is damaged.
    """
    folder, damage = RunFolder.open(path, shown), Damage()
    recipe = tomllib.loads(folder.read_recipe())
    metrics = {record.step: record for record in damage.records(path / METRICS, StepRecord)}
    trained = [metrics[step] for step in sorted(metrics)]
    heldout = damage.records(path / HELDOUT, HeldoutRecord)
    state = damage.whole(STATUS, folder.read_state) or {}
    summary = damage.whole(SUMMARY, folder.read_summary) or {}
    said = notes(summary, state, recipe, trained, damage.whole(EVENTS, folder.read_events) or [])
    own = recipe.get("run", {}).get("notes", [])  # the run's report has them
    grids = {
        one.tag: Grid(one.step, damage.whole(f"samples/{one.path.name}", partial(read_grid, one.path)) or [])
        for one in _ends(path / "samples")
    }
    return Run(
        name=name,
        place=place,
        recipe=recipe,
        metrics=trained,
        heldout=heldout,
        status=str(state.get("status", "unknown")),
        digest=summary.get("digest") or (trained[-1].digest if trained else None),
        notes=[*(note for note in said if note not in own), *damage.found],
        base=grids.pop("before", None),
        latest=next(iter(grids.values()), None),
    )


class Damage:
    """Reads files that may be damaged. `found` says of each that is."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def whole(self, name: str, read: Callable[[], T]) -> T | None:
        """What `read` gives of the file `name`; None if it is damaged."""
        try:
            return read()
        except Damaged as error:
            self.found.append(f"{name} is damaged and left out: {error.problem}.")
            return None

    def records(self, path: Path, kind: type[R]) -> list[R]:
        """The records that can be read."""
        records, problem = self.whole(path.name, partial(readable_records, path, kind)) or ([], "")
        if problem:
            self.found.append(f"{path.name} is damaged: {problem}. Its {len(records)} other lines are shown.")
        return records


def unique_names(places: Sequence[str]) -> list[str]:
    """The names of folders, each with as many of the folders above it as tell it from the others."""
    parts = [place.rstrip("/").split("/") for place in places]
    depth = 1
    names = [one[-1] for one in parts]
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        depth += 1
        twice = {name for name in names if names.count(name) > 1}
        names = ["/".join(one[-depth:]) if name in twice else name for one, name in zip(parts, names, strict=True)]
    return names


def same_run(places: Sequence[str]) -> str | None:
    """The first place that is given twice, under whatever name."""
    seen: set[str] = set()
    for place in places:
        real = place if "://" in place else os.path.realpath(place)
        if real in seen:
            return place
        seen.add(real)
    return None


def _ends(samples: Path) -> list[Snapshot]:
    """The base's sample grid and the last one of the training, as far as they are there."""
    found = snapshots_of(samples)
    return [*(one for one in found if one.tag == "before"), *[one for one in found if one.tag != "before"][-1:]]
