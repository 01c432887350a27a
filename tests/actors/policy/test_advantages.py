"""Group advantages against numbers worked out by hand."""

import numpy as np
import pytest

from actors.policy.advantages import group_advantages

REWARDS_PK = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0]])


def test_known_numbers():
    centred = [-2.0, -1.0, 0.0, 3.0]
    std_group = np.sqrt(14 / 4)
    std_global = np.std([1, 2, 3, 6, 0, 0, 0, 0])
    np.testing.assert_allclose(group_advantages(REWARDS_PK, "none")[0], centred)
    np.testing.assert_allclose(group_advantages(REWARDS_PK, "group")[0], np.array(centred) / (std_group + 1e-4))
    np.testing.assert_allclose(group_advantages(REWARDS_PK, "global")[0], np.array(centred) / (std_global + 1e-4))


@pytest.mark.parametrize("std", ["none", "group", "global"])
def test_equal_rewards_give_exactly_zero(std):
    rewards_PK = np.array([[0.1, 0.1, 0.1], [1.0, 2.0, 4.0]])
    advantages_PK = group_advantages(rewards_PK, std)
    assert (advantages_PK[0] == 0).all()
    np.testing.assert_allclose(advantages_PK.sum(axis=1), 0, atol=1e-12)


def test_sum_and_mean_rewards_have_the_same_normalised_advantages():
    tokens = 17
    mean, total = (group_advantages(rewards, "none") for rewards in (REWARDS_PK, REWARDS_PK * tokens))
    np.testing.assert_allclose(total, tokens * mean)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(np.array([[1.0, bad]]), "group")
