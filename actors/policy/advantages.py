"""From the rewards of a step to advantages: each image against the mean of its own group."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-4


def group_advantages(rewards_PK: np.ndarray, std: str) -> np.ndarray:
    """A = (r - mean_K r) / s, float64 [P, K].

    std: "none" (s = 1; the PromptEcho README), "group" (s = std_K + 1e-4) or "global" (s = std over all P x K + 1e-4, the
    official AWM code), population standard deviations. A group of equal rewards gets exactly 0. Raises ValueError if a reward
    is not finite: a failed reward is never a number.
    """
    rewards_PK = np.asarray(rewards_PK, dtype=np.float64)
    if not np.isfinite(rewards_PK).all():
        raise ValueError("a reward is not finite: its group must be left out before advantages are taken")
    equal_P1 = rewards_PK.max(axis=1, keepdims=True) == rewards_PK.min(axis=1, keepdims=True)
    centred_PK = np.where(equal_P1, 0.0, rewards_PK - rewards_PK.mean(axis=1, keepdims=True))
    if std == "none":
        return centred_PK
    scale = rewards_PK.std(axis=1, keepdims=True) if std == "group" else rewards_PK.std()
    return centred_PK / (scale + EPSILON)
