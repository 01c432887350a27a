"""Which held-out evaluations stand side by side when a run ends: the base, the base at its best, the trained model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from pipelines.evaluation.statistics import ByCategory, Interval, macro_interval, macro_mean, wilson_interval
from pipelines.run_folder.records import HeldoutRecord

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


def compare(records: list[HeldoutRecord]) -> Comparison:
    """The comparison of a run's held-out records.

    The first record of a tag is the one without extra guidance. The base's best scale is chosen on the images on which
    it is shown, which favours the base. A run that ended early has its last evaluation in place of "after".
    """
    before = [record for record in records if record.tag == "before"]
    after = [record for record in records if record.tag == "after"]
    after = after or [record for record in records if record.tag == "during"][-1:]
    measure = measure_of(before + after)
    chosen = {
        "before": before[:1],
        "base_best": _best_beside_first(before),
        "after": after[:1],
        "after_best": _best_beside_first(after),
    }
    columns = tuple(_column(key, record, measure) for key, found in chosen.items() for record in found)
    gain = difference(before[0], after[0], measure) if before and after else None
    return Comparison(
        columns,
        tuple({name: None for column in columns for name in column.values}),
        measure,
        shares(records),
        gain.interval if gain else None,
        gain.prompts if gain else 0,
    )


@dataclass(frozen=True)
class Difference:
    """By how much one evaluation's measure is above another's, over the prompts that both have, paired by prompt."""

    value: float
    interval: Interval | None
    prompts: int


def difference(first: HeldoutRecord, second: HeldoutRecord, measure: str) -> Difference | None:
    """The second over the first; None if they have no prompt in common, or kept no figures of their prompts."""
    gains = _gains(first, second, measure)
    value = macro_mean(gains)
    return None if value is None else Difference(value, macro_interval(gains), sum(map(len, gains.values())))


def interval_of(record: HeldoutRecord, measure: str, share: bool) -> Interval | None:
    """Of an evaluation's measure: over its prompts if it kept their figures, else of a share over its images (too narrow)."""
    if figures := _figures(record, measure):
        return macro_interval(figures)
    total = total_of(record, measure)
    return wilson_interval(total, record.images) if share and known(total) and record.images else None


def measure_of(records: Iterable[HeldoutRecord]) -> str:
    """By which figure models are compared: the checker's "accuracy", else the first that it gives, else the reward.

    Of each, more is better.
    """
    names = list({name: None for record in records for name in record.checks})
    return ACCURACY if ACCURACY in names else next(iter(names), REWARD)


def shares(records: Iterable[HeldoutRecord]) -> frozenset[str]:
    """The checker's figures that are shares of images: those that lie in [0, 1], everywhere in the run."""
    found: dict[str, bool] = {}
    for record in records:
        for name, value in record.checks.items():
            values = [value, *record.checks_by_category.get(name, {}).values()]
            within = all(0 <= one <= 1 for one in values if known(one))
            found[name] = found.get(name, True) and within
    return frozenset(name for name, within in found.items() if within)


def total_of(record: HeldoutRecord, measure: str) -> float | None:
    """A measure of an evaluation: the mean over categories."""
    return record.reward if measure == REWARD else record.checks.get(measure)


def by_category(record: HeldoutRecord, measure: str) -> Mapping[str, float | None]:
    """A measure of an evaluation by category."""
    if measure == REWARD:
        return record.reward_by_category
    return record.checks_by_category.get(measure, {})


def measure_words(measure: str) -> str:
    """The measure's title."""
    return f"Held-out {measure}"


def guidance_words(scale: float) -> str:
    """How a guidance scale is named to people; 1 and below draw without guidance."""
    return "no guidance" if scale <= 1 else f"guidance {scale:g}"


def summarise(records: list[HeldoutRecord]) -> dict[str, Any]:
    """The `heldout` part of summary.json: before and after, the base at its best guidance scale, and every scale."""
    before, after = ([record for record in records if record.tag == tag] for tag in ("before", "after"))
    best_before = best(before)
    return {
        "before": _short(before[0]) if before else None,
        "after": _short(after[0]) if after else None,
        "before_best_guidance": _short(best_before) if best_before else None,
        "before_by_guidance": [_short(record) for record in before],
        "after_by_guidance": [_short(record) for record in after],
    }


def _short(record: HeldoutRecord) -> dict[str, Any]:
    return {name: value for name, value in record.line().items() if name != "by_prompt"}


def best(records: list[HeldoutRecord]) -> HeldoutRecord | None:
    """The evaluation with the highest measure."""
    measure = measure_of(records)
    return max(records, key=lambda record: _or(total_of(record, measure), -math.inf), default=None)


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a finite value."""
    return value is not None and math.isfinite(value)


def _best_beside_first(records: list[HeldoutRecord]) -> list[HeldoutRecord]:
    """The best evaluation, unless it is the first one, which has its own column."""
    found = best(records)
    return [] if found is None or found is records[0] else [found]


def _column(key: str, record: HeldoutRecord, measure: str) -> Column:
    name = {"before": "base", "after": "trained", "during": f"step {record.step}"}[record.tag]
    return Column(
        key=key,
        model=name,
        guidance=guidance_words(record.guidance),
        total=_or(total_of(record, measure), math.nan),
        values={category: _or(value, math.nan) for category, value in by_category(record, measure).items()},
        images=record.images,
        others={name: _or(value, math.nan) for name, value in record.checks.items() if name != measure},
        interval=macro_interval(_figures(record, measure)),
    )


def _prompts(record: HeldoutRecord, measure: str) -> Iterator[tuple[str, str, float, float]]:
    """(id, category, images, the measure's mean) of each prompt of an evaluation that kept them."""
    for prompt_id, kept in (record.by_prompt or {}).items():
        value = kept.reward if measure == REWARD else kept.checks.get(measure)
        if known(value):
            yield prompt_id, kept.category, kept.images, value


def _figures(record: HeldoutRecord, measure: str) -> ByCategory:
    """(the measure's mean, images) of each prompt of an evaluation that kept them, by category."""
    figures: dict[str, list[tuple[float, float]]] = {}
    for _, category, images, value in _prompts(record, measure):
        figures.setdefault(category, []).append((value, images))
    return figures


def _gains(before: HeldoutRecord, after: HeldoutRecord, measure: str) -> ByCategory:
    """(gain, images) of each prompt that both evaluations have, by category.

    images: the harmonic mean of both counts, the weight of a difference of two means; their number, where that is the same.
    """
    at_first = {prompt_id: (images, value) for prompt_id, _, images, value in _prompts(before, measure)}
    gains: dict[str, list[tuple[float, float]]] = {}
    for prompt_id, category, images, value in _prompts(after, measure):
        if prompt_id in at_first:
            images_first, value_first = at_first[prompt_id]
            both = 2 * images * images_first / (images + images_first)
            gains.setdefault(category, []).append((value - value_first, both))
    return gains


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isnan(value) else float(value)
