"""Several rewards become one: against slow sums in exact fractions, and what no combination may hide."""

import math
from fractions import Fraction
from itertools import product
from statistics import pstdev

import numpy as np
import pytest

from actors.reward.combine import combined

P, K = 3, 4
REWARDS = np.random.default_rng(5).uniform(0.1, 3, (2, P, K)) * np.array([1, 1000])[:, None, None]
WEIGHTS = (0.7, 0.3)
PLACES = list(product(range(P), range(K)))


def test_a_weighted_sum_is_the_sum_of_weights_times_rewards():
    found = combined(REWARDS, WEIGHTS, "weighted_sum")
    for p, k in PLACES:
        exact = sum(Fraction(weight) * Fraction(float(one[p, k])) for weight, one in zip(WEIGHTS, REWARDS, strict=True))
        assert found[p, k] == pytest.approx(float(exact), rel=1e-15)


def test_a_product_is_that_of_powers():
    found = combined(REWARDS, WEIGHTS, "product")
    for p, k in PLACES:
        logs = [weight * math.log(one[p, k]) for weight, one in zip(WEIGHTS, REWARDS, strict=True)]
        assert found[p, k] == pytest.approx(math.exp(sum(logs)), rel=1e-12)


def test_normalised_takes_each_reward_against_its_own_group():
    found = combined(REWARDS, WEIGHTS, "normalised")
    for p, k in PLACES:
        terms = []
        for weight, one in zip(WEIGHTS, REWARDS, strict=True):
            group = [float(reward) for reward in one[p]]
            terms.append(weight * (group[k] - sum(group) / K) / (pstdev(group) + 1e-4))
        assert found[p, k] == pytest.approx(sum(terms), abs=1e-12)


def test_normalised_does_not_see_a_rewards_scale_or_offset():
    other = REWARDS * np.array([1000, 1])[:, None, None] + 5
    assert combined(other, WEIGHTS, "normalised") == pytest.approx(combined(REWARDS, WEIGHTS, "normalised"), abs=2e-3)
    assert combined(other, WEIGHTS, "weighted_sum") != pytest.approx(combined(REWARDS, WEIGHTS, "weighted_sum"))


def test_a_reward_that_is_equal_in_a_group_leaves_the_others_as_they_are():
    flat = REWARDS.copy()
    flat[1, 0] = 0.1  # whose mean over four differs from it in the last bit
    found = combined(flat, WEIGHTS, "normalised")[0]
    assert found.tolist() == (0.7 * combined(flat[:1], (1.0,), "normalised")[0]).tolist()


@pytest.mark.parametrize("how", ["weighted_sum", "product"])
def test_one_reward_of_weight_1_is_itself_to_the_bit(how):
    assert combined(REWARDS[:1], (1.0,), how).tobytes() == REWARDS[0].tobytes()


@pytest.mark.parametrize("how", ["weighted_sum", "product", "normalised"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_never_becomes_one(how, bad):
    rewards = REWARDS.copy()
    rewards[1, 2, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        combined(rewards, (1.0, 0.0), how)


@pytest.mark.parametrize("how", ["weighted_sum", "product", "normalised"])
def test_a_missing_reward_is_an_error(how):
    with pytest.raises(ValueError, match="a reward is missing"):
        combined(REWARDS[:1], WEIGHTS, how)


def test_a_product_that_would_turn_the_order_round_is_refused():
    with pytest.raises(ValueError, match="below 0"):
        combined(-REWARDS, WEIGHTS, "product")
    with pytest.raises(ValueError, match="below 0"):
        combined(REWARDS * 0, (1.0, -1.0), "product")


def test_a_reward_without_weight_may_be_below_0_in_a_product() -> None:
    rewards_NPK = np.array([[[2.0, 3.0]], [[-1.0, -2.0]]])
    assert combined(rewards_NPK, (1.0, 0.0), "product").tolist() == [[2.0, 3.0]]
