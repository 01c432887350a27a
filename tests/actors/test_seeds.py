"""Seeds are hashes of what they are for."""

from collections import Counter

import numpy as np
import torch

from actors.diffusion.sample import noise_of
from actors.seeds import seed_of, stream_of
from tests.support import kolmogorov


def test_a_seed_depends_on_every_part_and_on_nothing_else():
    assert seed_of(1, "noise", 2) == seed_of(1, "noise", 2) == 4456170204052892222
    seeds = {
        seed_of(*what)
        for what in [
            (1, "noise", 2),
            (1, "noise", 3),
            (2, "noise", 1),
            ("1", "noise", 2),
            (1, "noise2"),
            ("a", "bc"),
            ("ab", "c"),
        ]
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_of_200_000_streams_those_whose_seeds_share_32_bits_begin_differently():
    seeds = [
        seed_of(7, purpose, n) for purpose in ("noise", "training", "pairs", "steps", "lora") for n in range(40_000)
    ]
    assert len(set(seeds)) == 200_000
    for shared_bits in (lambda seed: seed % 2**32, lambda seed: seed >> 31):
        shares = Counter(map(shared_bits, seeds))
        alike = [seed for seed in seeds if shares[shared_bits(seed)] > 1]
        assert len(alike) >= 4
        assert len({stream_of(seed).bit_generator.random_raw() for seed in alike}) == len(alike)


def test_a_stream_depends_on_every_bit_of_its_seed():
    seed = seed_of("any")
    drawn = {noise_of(other, (4,)).numpy().tobytes() for other in [seed, *(seed ^ 1 << bit for bit in range(63))]}
    assert len(drawn) == 64


def normal(values):
    return torch.special.ndtr(torch.from_numpy(values)).numpy()


def test_noise_is_standard_normal_float32_within_a_stream_and_across_streams():
    within = noise_of(seed_of("within"), (100_000,)).numpy()
    across = np.array([noise_of(seed_of("across", number), (1,)).item() for number in range(20_000)])
    assert within.dtype == np.float32
    assert kolmogorov.distance(within, normal) < kolmogorov.LIMIT
    assert kolmogorov.distance(across, normal) < kolmogorov.LIMIT
    assert abs(np.corrcoef(across[:-1], across[1:])[0, 1]) < 0.03
