"""Which held-out evaluations stand side by side when a run ends: the base, the base at its best, the trained model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from pipelines.evaluation.statistics import Interval, macro_interval

Record = dict[str, Any]
ACCURACY, REWARD = "accuracy", "reward"


@dataclass(frozen=True)
class Column:
    """One evaluation in the comparison, in its measure: `total` and, by category, `values`.

    others: the checker's further figures. interval: of `total`, bootstrapped over prompts, if their figures are there.
    """

    key: str
    model: str
    guidance: str
    total: float
    values: dict[str, float]
    images: int | None
    others: dict[str, float] = field(default_factory=dict)
    interval: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """The columns in the order of reading.

    measure: by which models are compared (`measure_of`). shares: the figures that are shares of images, shown in percent.
    gain_interval: of the trained model's gain over the base, both without guidance, bootstrapped over prompts.
    """

    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    measure: str
    shares: frozenset[str]
    gain_interval: Interval | None = None
    prompts: int = 0

    @property
    def share(self) -> bool:
        """Whether the measure is a share of images."""
        return self.measure in self.shares

    @property
    def others(self) -> tuple[str, ...]:
        """The names of the checker's further figures."""
        return tuple({name: None for column in self.columns for name in column.others})

    def column(self, key: str) -> Column | None:
        """The column "before", "base_best", "after" or "after_best", if it was evaluated."""
        return next((column for column in self.columns if column.key == key), None)


def compare(records: list[Record]) -> Comparison:
    """The comparison of a run's held-out records (`Tally.record`, with "tag", "step" and "guidance").

    The first record of a tag is the one without extra guidance. The base's best scale is chosen on the images on which
    it is shown, which favours the base. A run that ended early has its last evaluation in place of "after".
    """
    before = [record for record in records if record.get("tag") == "before"]
    after = [record for record in records if record.get("tag") == "after"]
    after = after or [record for record in records if record.get("tag") == "during"][-1:]
    measure = measure_of(before + after)
    chosen = {
        "before": before[:1],
        "base_best": _best_beside_first(before),
        "after": after[:1],
        "after_best": _best_beside_first(after),
    }
    columns = tuple(_column(key, record, measure) for key, found in chosen.items() for record in found)
    gains = _gains(before[0], after[0], measure) if before and after else {}
    return Comparison(
        columns,
        tuple({name: None for column in columns for name in column.values}),
        measure,
        shares(records),
        macro_interval(gains),
        sum(map(len, gains.values())),
    )


def measure_of(records: Iterable[Record]) -> str:
    """By which figure models are compared: the checker's "accuracy", else the first that it gives, else the reward.

    Of each, more is better.
    """
    names = list({name: None for record in records for name in checks_of(record)})
    return ACCURACY if ACCURACY in names else next(iter(names), REWARD)


def checks_of(record: Record) -> dict[str, float | None]:
    """The checker's figures, by name: each the mean over categories."""
    return record.get("checks") or {}


def shares(records: Iterable[Record]) -> frozenset[str]:
    """The checker's figures that are shares of images: those that lie in [0, 1], everywhere in the run."""
    found: dict[str, bool] = {}
    for record in records:
        for name, value in checks_of(record).items():
            values = [value, *(record.get("checks_by_category") or {}).get(name, {}).values()]
            within = all(0 <= one <= 1 for one in values if known(one))
            found[name] = found.get(name, True) and within
    return frozenset(name for name, within in found.items() if within)


def total_of(record: Record, measure: str) -> float | None:
    """A measure of an evaluation: the mean over categories."""
    return record.get("reward") if measure == REWARD else checks_of(record).get(measure)


def by_category(record: Record, measure: str) -> dict[str, float | None]:
    """A measure of an evaluation by category."""
    if measure == REWARD:
        return record.get("reward_by_category") or {}
    return (record.get("checks_by_category") or {}).get(measure) or {}


def measure_words(measure: str) -> str:
    """The measure's title."""
    return f"Held-out {measure}"


def guidance_words(scale: float) -> str:
    """How a guidance scale is named to people; 1 and below draw without guidance."""
    return "no guidance" if scale <= 1 else f"guidance {scale:g}"


def summarise(records: list[Record]) -> dict[str, Any]:
    """The `heldout` part of summary.json: before and after, the base at its best guidance scale, and every scale."""
    short = [{name: value for name, value in record.items() if name != "by_prompt"} for record in records]
    before, after = ([record for record in short if record["tag"] == tag] for tag in ("before", "after"))
    return {
        "before": next(iter(before), None),
        "after": next(iter(after), None),
        "before_best_guidance": best(before),
        "before_by_guidance": before,
        "after_by_guidance": after,
    }


def best(records: list[Record]) -> Record | None:
    """The evaluation with the highest measure."""
    measure = measure_of(records)
    return max(records, key=lambda record: _or(total_of(record, measure), -math.inf), default=None)


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a finite value."""
    return value is not None and math.isfinite(value)


def _best_beside_first(records: list[Record]) -> list[Record]:
    """The best evaluation, unless it is the first one, which has its own column."""
    found = best(records)
    return [] if found is None or found is records[0] else [found]


def _column(key: str, record: Record, measure: str) -> Column:
    scale = float(record.get("guidance") or 1.0)
    name = "base" if record["tag"] == "before" else "trained" if record["tag"] == "after" else f"step {record['step']}"
    figures: dict[str, list[tuple[float, float]]] = {}
    for _, category, images, value in _prompts(record, measure):
        figures.setdefault(category, []).append((value, images))
    return Column(
        key=key,
        model=name,
        guidance=guidance_words(scale),
        total=_or(total_of(record, measure), math.nan),
        values={category: _or(value, math.nan) for category, value in by_category(record, measure).items()},
        images=record.get("images"),
        others={name: _or(value, math.nan) for name, value in checks_of(record).items() if name != measure},
        interval=macro_interval(figures),
    )


def _prompts(record: Record, measure: str) -> Iterator[tuple[str, str, float, float]]:
    """(id, category, images, the measure's mean) of each prompt of an evaluation that kept them."""
    for prompt_id, kept in (record.get("by_prompt") or {}).items():
        value = kept["reward"] if measure == REWARD else kept["checks"].get(measure)
        if known(value):
            yield prompt_id, kept["category"], kept["images"], value


def _gains(before: Record, after: Record, measure: str) -> Mapping[str, Sequence[tuple[float, float]]]:
    """(gain, images) of each prompt that both evaluations have, by category."""
    at_first = {prompt_id: value for prompt_id, _, _, value in _prompts(before, measure)}
    gains: dict[str, list[tuple[float, float]]] = {}
    for prompt_id, category, images, value in _prompts(after, measure):
        if prompt_id in at_first:
            gains.setdefault(category, []).append((value - at_first[prompt_id], images))
    return gains


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isnan(value) else float(value)
