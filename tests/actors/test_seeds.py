"""Seeds are hashes of what they are for."""

from actors.seeds import seed_of


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
