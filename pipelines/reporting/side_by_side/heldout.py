"""Held-out figures of several runs: those that were evaluated alike stand in one table, and others in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.comparison import (
    REWARD,
    Difference,
    by_category,
    difference,
    guidance_words,
    interval_of,
    known,
    measure_of,
    measure_words,
    shares,
    total_of,
)
from pipelines.evaluation.statistics import Interval
from pipelines.recipe.tables import Pool
from pipelines.reporting.side_by_side.run import Run
from pipelines.run_folder.records import HeldoutRecord

CONDITIONS = (
    "data.heldout", "data.caption", "heldout.checker", "heldout.steps", "rollout.height", "rollout.width",
)  # fmt: skip
"""Keys of the recipe in which runs may not differ if their held-out figures are to be compared."""


@dataclass(frozen=True)
class Row:
    """One run's evaluations in a table: of the base, and the last one. gain: of the last over the run's own base."""

    run: Run
    base: HeldoutRecord | None
    last: HeldoutRecord | None
    base_total: float | None
    total: float | None
    interval: Interval | None
    gain: Difference | None
    over_first: Difference | None


@dataclass(frozen=True)
class Block:
    """The runs whose held-out figures compare: one measure, at one guidance scale, under the same conditions.

    conditions: in words, as far as other blocks have others. records: of each run, by its name.
    """

    measure: str
    guidance: float
    share: bool
    conditions: str
    rows: Sequence[Row]
    records: Mapping[str, Sequence[HeldoutRecord]]
    shares: frozenset[str]

    @property
    def title(self) -> str:
        """What is measured, and how."""
        return f"{measure_words(self.measure)}, {guidance_words(self.guidance)}"

    @property
    def compares(self) -> bool:
        """Whether at least two runs have been trained and evaluated like this."""
        return sum(row.last is not None for row in self.rows) > 1

    @property
    def first(self) -> Run | None:
        """The run that others are compared with."""
        first = _first(self.rows)
        return first.run if first else None

    @property
    def categories(self) -> list[str]:
        """Of the last evaluations, in their order."""
        return list({name: None for row in self.rows if row.last for name in by_category(row.last, self.measure)})

    @property
    def others(self) -> list[str]:
        """The checker's further figures, and the reward."""
        names = {name: None for row in self.rows if row.last for name in (*row.last.checks, REWARD)}
        return [name for name in names if name != self.measure]


def judge_of(run: Run) -> Any:
    """What of a recipe decides its reward: its tables of rewards without the keys of their pools."""
    tables = run.value("reward")
    tables = tables if isinstance(tables, list) else [tables or {}]
    kept = [{key: value for key, value in table.items() if key not in Pool.model_fields} for table in tables]
    return repr((kept, run.value("combine")))


def blocks(runs: Sequence[Run]) -> list[Block]:
    """The tables, those in which runs compare first. Runs that were judged or drawn otherwise get their own."""
    found: dict[tuple[Any, ...], dict[str, list[HeldoutRecord]]] = {}
    for run in runs:
        measure = measure_of(run.heldout)
        judged = judge_of(run) if measure == REWARD else ""
        for record in run.heldout:
            alike = tuple(str(run.value(path) or "") for path in CONDITIONS)
            key = (measure, record.guidance, judged, *alike)
            found.setdefault(key, {}).setdefault(run.name, []).append(record)
    several = [place for place in range(len(CONDITIONS)) if len({key[3 + place] for key in found}) > 1]
    judges = len({key[2] for key in found if key[0] == REWARD}) > 1
    made = []
    for (measure, guidance, _, *conditions), records in found.items():
        words = [f"{CONDITIONS[place]} = {conditions[place]}" for place in several if conditions[place]]
        words += [f"the reward of {' and '.join(records)}"] if judges and measure == REWARD else []
        made.append(_block(runs, measure, guidance, ", ".join(words), records))
    return sorted(made, key=lambda block: not block.compares)


def _block(
    runs: Sequence[Run], measure: str, guidance: float, conditions: str, records: Mapping[str, Sequence[HeldoutRecord]]
) -> Block:
    share = shares(record for same in records.values() for record in same)
    rows: list[Row] = []
    for run in runs:
        if run.name in records:
            first = _first(rows)
            rows.append(_row(run, records[run.name], measure, measure in share, first.last if first else None))
    return Block(measure, guidance, measure in share, conditions, rows, records, share)


def _row(run: Run, records: Sequence[HeldoutRecord], measure: str, share: bool, first: HeldoutRecord | None) -> Row:
    base = next((record for record in records if record.tag == "before"), None)
    last = max((record for record in records if record.tag != "before"), key=lambda one: one.step, default=None)
    judged = last or base
    return Row(
        run=run,
        base=base,
        last=last,
        base_total=_total(base, measure),
        total=_total(last, measure),
        interval=interval_of(judged, measure, share) if judged else None,
        gain=difference(base, last, measure) if base and last else None,
        over_first=difference(first, last, measure) if first and last else None,
    )


def _first(rows: Sequence[Row]) -> Row | None:
    """The first run that was evaluated at its end; what was evaluated on the way kept no figures of prompts."""
    return next((row for row in rows if row.last and row.last.tag == "after"), None)


def _total(record: HeldoutRecord | None, measure: str) -> float | None:
    value = total_of(record, measure) if record else None
    return value if known(value) else None
