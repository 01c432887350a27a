"""How sure a held-out figure is: intervals by the bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
RESAMPLES, PARTS = 2000, 20
LEVEL = 0.95
SEED = 0  # the same figures give the same interval


def macro_interval(figures: Mapping[str, Sequence[tuple[float, float]]]) -> Interval | None:
    """The 95 % interval of a mean over categories of the means over their images.

    figures: by category, (mean, number of images) of each prompt. Prompts are drawn again with replacement within their category,
    with all their images: images of a prompt are not independent (percentile bootstrap, Efron 1979).
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
