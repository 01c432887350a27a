"""Where samples are trained: strata, bounds, and that a seed decides all."""

from collections import Counter

import numpy as np
import pytest
import torch

from actors.policy.objectives.timesteps import bucket_indices, draw_sigmas, shift_sigma, stratified, training_pairs
from actors.seeds import stream_of
from tests.support import kolmogorov

SIGMAS = torch.linspace(1, 0, 15)
DRAW = {"shift": 3.0, "lowest": 0.2, "fraction": 0.9}
KINDS = ["uniform", "logit_normal", "discrete", "discrete_wo_init", "discrete_with_init", "subset"]


def draw(kind, count, seed):
    return draw_sigmas(kind, count, SIGMAS, generator=stream_of(seed), **DRAW)


@pytest.mark.parametrize("kind", KINDS)
def test_sigmas_lie_in_range_and_one_in_each_stratum(kind):
    for seed in range(200):
        sigma = draw(kind, 4, seed)
        assert sigma.shape == (4,)
        assert (sigma > 0).all()
        assert (sigma <= 1).all()
        assert len(set(sigma.tolist())) == 4
        assert sigma.tolist() in (sorted(sigma.tolist()), sorted(sigma.tolist(), reverse=True))


def test_the_first_index_is_drawn_only_where_the_name_says_so():
    first = {kind: {draw(kind, 4, seed)[0].item() for seed in range(300)} for kind in KINDS}
    assert 1.0 not in first["discrete_wo_init"]
    assert first["discrete_with_init"] == {1.0}
    assert 1.0 in first["discrete"]
    assert len(first["discrete"]) > 1


def test_no_index_beyond_the_fraction_of_the_path():
    last = int(14 * 0.9)
    for seed in range(300):
        assert bucket_indices(1, last, 4, stream_of(seed)).max() < last


def test_uniform_is_shifted_from_the_lowest():
    sigma = torch.cat([draw("uniform", 2, seed) for seed in range(500)])
    assert sigma.min() >= shift_sigma(torch.tensor(0.2), 3.0)
    assert shift_sigma(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])


def test_stratified_has_one_in_each_part():
    values = stratified(8, stream_of(0))
    assert ((values * 8).floor() == torch.arange(8)).all()


def test_a_samples_pairs_do_not_depend_on_its_neighbours():
    def pairs(seeds):
        return training_pairs(seeds, (2, 3, 3), SIGMAS, kind="uniform", count=3, **DRAW)

    sigma, noise = pairs((5, 6, 7))
    alone_sigma, alone_noise = pairs((6,))
    assert torch.equal(sigma[1:2], alone_sigma)
    assert torch.equal(noise[1:2], alone_noise)
    assert not torch.equal(noise[0], noise[1])


def test_logit_normal_is_the_sigmoid_of_a_normal_after_the_shift():
    """P(t < x) of t = 3 u / (1 + 2 u), u = sigmoid(normal), is Phi(logit(x) - log 3)."""
    drawn = torch.cat([draw("logit_normal", 1, seed) for seed in range(4000)]).numpy()

    def distribution(t):
        return torch.special.ndtr(torch.logit(torch.from_numpy(t)) - np.log(3)).numpy()

    assert kolmogorov.distance(drawn, distribution) < kolmogorov.LIMIT


def test_a_subset_of_nine_of_ten_steps_trains_each_of_them_for_nine_samples_of_ten():
    sigmas = torch.linspace(1, 0, 11)
    times = Counter()
    for seed in range(2000):
        chosen = draw_sigmas("subset", 9, sigmas, generator=stream_of(seed), **DRAW)
        assert chosen.tolist() == sorted(set(chosen.tolist()), reverse=True)
        times.update(chosen.tolist())
    assert sorted(times, reverse=True) == sigmas[:-1].tolist()
    assert all(abs(count / 2000 - 0.9) < 0.03 for count in times.values())
