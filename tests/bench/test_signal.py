"""The agreement of gradients against closed forms, and one small run on the miniature world."""

import json

import pytest
import torch

from bench.signal import RECIPE, SAMPLER, agreement, main, variants
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe


def test_agreement_is_the_share_of_the_signal():
    """g = s + n with |s| = 1 and n normal in 10,000 dimensions of |n|^2 = 3: the cosine is 1 / 4."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.zeros(10_000, dtype=torch.float64)
    signal[0] = 1.0
    noise = torch.randn((30, 10_000), generator=generator, dtype=torch.float64) * (3 / 10_000) ** 0.5
    cosine, error = agreement([signal + row for row in noise])
    assert cosine == pytest.approx(0.25, abs=0.01)
    assert 0 < error < 0.01


def test_opposite_and_equal_gradients():
    g = torch.tensor([3.0, 4.0])
    assert agreement([g, 2 * g])[0] == pytest.approx(1)
    assert agreement([g, -g])[0] == pytest.approx(-1)


def test_a_small_run(tmp_path):
    main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "signal.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["AWM", "DiffusionNFT"]
    assert rows[0]["reward"] == rows[1]["reward"]  # both drew the same images


def test_a_variant_is_chosen_by_name_and_a_wrong_name_is_told_before_anything_loads(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--only", "SDE 0.8", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "--only 'SDE 0.8': allowed are 'AWM', 'DiffusionNFT', " in capsys.readouterr().err


def test_every_variant_fits_the_miniature_worlds_sampler():
    recipe = load_recipe(RECIPE, SAMPLER).model_dump()
    for objective, shared in variants().values():
        noise = "group" if shared else "own"
        changed = {**recipe, "objective": objective.model_dump(), "rollout": {**recipe["rollout"], "noise": noise}}
        assert Recipe.model_validate(changed).objective == objective
