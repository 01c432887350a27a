"""How far drawn numbers are from the distribution that they should have: the test of Kolmogorov and Smirnov."""

from collections.abc import Callable

import numpy as np

LIMIT = 1.63  # of `distance`, passed by chance once in a hundred


def distance(values: np.ndarray, distribution: Callable[[np.ndarray], np.ndarray]) -> float:
    """sqrt(n) max |F_n - F| for n independent values and a cumulative distribution function F."""
    ordered = np.sort(values.astype(np.float64))
    steps = np.arange(len(ordered) + 1) / len(ordered)
    expected = distribution(ordered)
    return len(ordered) ** 0.5 * max(np.abs(expected - steps[:-1]).max(), np.abs(expected - steps[1:]).max())
