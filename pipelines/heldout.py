"""Which held-out evaluations stand side by side when a run ends: the base, the base at its best, the trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One evaluation in the comparison. `values`, by category: shares in [0, 1], or rewards where no checker ran."""

    key: str
    model: str
    guidance: str
    total: float
    values: dict[str, float]
    images: int | None
    ghost: float | None


@dataclass(frozen=True)
class Comparison:
    """The columns in the order of reading; `exact` says that a checker counted, so that the figures are accuracies."""

    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    exact: bool

    def column(self, key: str) -> Column | None:
        """The column "before", "base_best", "after" or "after_best", if it was evaluated."""
        return next((column for column in self.columns if column.key == key), None)


def compare(records: list[Record]) -> Comparison:
    """The comparison of a run's held-out records, with "tag", "guidance", "accuracy", "reward" and both by category.

    The first record of a tag is the one without extra guidance. The base's best scale is chosen on the images on which
    it is shown, which favours the base. A run that ended early has its last evaluation in place of "after".
    """
    before = [record for record in records if record.get("tag") == "before"]
    after = [record for record in records if record.get("tag") == "after"]
    after = after or [record for record in records if record.get("tag") == "during"][-1:]
    exact = any(record.get("accuracy") is not None for record in before + after)
    chosen = {
        "before": before[:1],
        "base_best": _best_beside_first(before),
        "after": after[:1],
        "after_best": _best_beside_first(after),
    }
    columns = tuple(_column(key, record, exact) for key, found in chosen.items() for record in found)
    return Comparison(columns, tuple({name: None for column in columns for name in column.values}), exact)


def guidance_words(scale: float) -> str:
    """How a guidance scale is named to people; 1 and below draw without guidance."""
    return "no guidance" if scale <= 1 else f"guidance {scale:g}"


def summarise(records: list[Record]) -> dict[str, Any]:
    """The `heldout` part of summary.json: before and after, the base at its best guidance scale, and every scale."""
    before, after = ([record for record in records if record["tag"] == tag] for tag in ("before", "after"))
    return {
        "before": next(iter(before), None),
        "after": next(iter(after), None),
        "before_best_guidance": best(before),
        "before_by_guidance": before,
        "after_by_guidance": after,
    }


def best(records: list[Record]) -> Record | None:
    """The most accurate evaluation; the one with the highest reward where no checker ran."""
    exact = any(record.get("accuracy") is not None for record in records)
    return max(records, key=lambda record: record.get("accuracy" if exact else "reward") or 0.0, default=None)


def _best_beside_first(records: list[Record]) -> list[Record]:
    """The best evaluation, unless it is the first one, which has its own column."""
    found = best(records)
    return [] if found is None or found is records[0] else [found]


def _column(key: str, record: Record, exact: bool) -> Column:
    scale = float(record.get("guidance") or 1.0)
    name = "base" if record["tag"] == "before" else "trained" if record["tag"] == "after" else f"step {record['step']}"
    values = record.get("by_category" if exact else "reward_by_category") or {}
    return Column(
        key=key,
        model=name,
        guidance=guidance_words(scale),
        total=_number(record.get("accuracy" if exact else "reward")),
        values={category: _number(value) for category, value in values.items()},
        images=record.get("images"),
        ghost=record.get("ghost"),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
