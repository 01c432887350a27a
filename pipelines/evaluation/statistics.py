"""Held-out figures: means within categories, and how sure they are, by the bootstrap over prompts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
RESAMPLES, PARTS = 2000, 20
LEVEL = 0.95
SEED = 0  # the same figures give the same interval
Z = 1.959964  # the normal distribution's quantile of LEVEL

ByCategory = Mapping[str, Sequence[tuple[float, float]]]
"""By category, (mean, number of images) of each prompt."""


def category_means(values: Iterable[tuple[str, Sequence[float]]]) -> dict[str, float]:
    """Of each category that has any: (category, values) of each group, in an order that decides the last bits."""
    by_category: dict[str, list[float]] = defaultdict(list)
    for category, of_group in values:
        by_category[category] += of_group
    return {category: mean(items) for category, items in by_category.items() if items}


def mean(values: Collection[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def macro_mean(figures: ByCategory) -> float | None:
    """The mean over categories of the means over their images; None of nothing."""
    means = [
        sum(mean * images for mean, images in prompts) / sum(images for _, images in prompts)
        for prompts in figures.values()
    ]
    return sum(means) / len(means) if means else None


def wilson_interval(share: float, images: int) -> Interval:
    """The 95 % interval of a share of images as if they were independent (Wilson 1927), for want of each prompt's figures."""
    middle = (share + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z / (1 + Z**2 / images) * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    return middle - half, middle + half


def macro_interval(figures: ByCategory) -> Interval | None:
    """The 95 % interval of `macro_mean`.

    Prompts are drawn again with replacement within their category, with all their images: images of a prompt are not independent
    (percentile bootstrap, Efron 1979).
    None if a category has fewer than two prompts, whose spread is unknown.
    """
    if not figures or min(map(len, figures.values())) < 2:
        return None
    random = np.random.Generator(np.random.Philox(SEED))
    totals_R = sum((_resampled_means(np.array(prompts), random) for prompts in figures.values()), np.zeros(RESAMPLES))
    low, high = np.quantile(totals_R / len(figures), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def _resampled_means(prompts_P2: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mean over images of each resample of the prompts (mean, images), `[RESAMPLES]`; a part at a time, to spare memory."""
    means_P, images_P = prompts_P2.T
    means = []
    for _ in range(PARTS):
        times_RP = random.multinomial(len(means_P), np.full(len(means_P), 1 / len(means_P)), size=RESAMPLES // PARTS)
        means.append(times_RP @ (means_P * images_P) / (times_RP @ images_P))
    return np.concatenate(means)
