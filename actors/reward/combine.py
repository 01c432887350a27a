"""One reward of several, image by image. Pure numpy: the driver computes it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from actors.policy.advantages import group_advantages

How = Literal["weighted_sum", "product", "normalised"]


def combined(rewards_NPK: np.ndarray, weights_N: tuple[float, ...], how: How) -> np.ndarray:
    """The reward float64 [P, K] of each image from N rewards of it, with a weight each.

    weighted_sum: sum_n w_n r_n. product: prod_n r_n^w_n. normalised: sum_n w_n (r_n - mean_K r_n) / (std_K r_n + 1e-4), each
    reward within its group, so that none counts by its scale; a reward that is equal in all of a group adds exactly 0 there.
    Source of the last: GDPO (arXiv 2601.05242), whose normalisation over the batch afterwards is `advantage_std = "global"`.
    Raises ValueError for a reward that is missing or not finite, and for a product with a reward below 0, or with 0 to a power below 0:
    they would turn the order of images round, or be no number.
    """
    rewards_NPK = np.asarray(rewards_NPK, dtype=np.float64)
    if rewards_NPK.ndim != 3 or len(rewards_NPK) != len(weights_N) or not len(weights_N):
        raise ValueError(
            f"rewards of the shape {rewards_NPK.shape} do not have {len(weights_N)} weights: a reward is missing"
        )
    if not np.isfinite(rewards_NPK).all():
        raise ValueError("a reward is not finite: its group must be left out before rewards are combined")
    pairs = list(zip(weights_N, rewards_NPK, strict=True))  # added one after another: the order decides the bits
    if how == "product":
        return _product(pairs)
    terms = [
        weight * (group_advantages(one_PK, "group") if how == "normalised" else one_PK) for weight, one_PK in pairs
    ]
    return sum(terms[1:], start=terms[0])


def _product(pairs: list[tuple[float, np.ndarray]]) -> np.ndarray:
    pairs = [(weight, one_PK) for weight, one_PK in pairs if weight]
    for weight, one_PK in pairs:
        if (one_PK < 0).any() or (weight < 0 and (one_PK == 0).any()):
            raise ValueError(
                'combine.how = "product" of a reward that can be below 0, or of 0 with a weight below 0: take "weighted_sum" or '
                '"normalised", or a reward above 0, such as promptecho with transform = "exp"'
            )
    powers = [one_PK**weight for weight, one_PK in pairs]
    return np.prod(powers, axis=0)
