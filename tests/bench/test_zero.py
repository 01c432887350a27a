"""The benchmark of the ranks at its smallest: plain torch and one stage of ZeRO on a transformer made for it."""

import json
from pathlib import Path

from bench.zero import CASES, main


def test_a_transformer_of_random_weights_is_trained_in_each_configuration(tmp_path: Path):
    options = "--quick --model sd35-medium --device cpu --stages 2 --ranks 1 --updates 1".split()
    main([*options, "--out", str(tmp_path)])
    plain, zero = json.loads((tmp_path / "zero.json").read_text())["rows"]
    assert (plain["stage"], zero["stage"]) == (0, 2)
    assert plain["ratio"] == 1
    for row in (plain, zero):
        assert len(row["seconds"]) == 1
        assert row["ratio"] > 0
        assert row["peak_mb"] > 0


def test_the_work_of_a_step_is_the_same_for_any_number_of_ranks():
    for case in CASES.values():
        for ranks in (1, 2):
            shares = [case.share(1, rank, ranks) for rank in range(ranks)]
            assert sum(len(latents.latents_KCHW) for _, latents in shares) == case.samples
            assert all(len(groups[0].sample_seeds) == len(latents.latents_KCHW) for groups, latents in shares)
