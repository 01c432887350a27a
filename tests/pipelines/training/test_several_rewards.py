"""Several rewards in one run: a pool each, one digest for any number of workers, and no number where one of them has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.policy.advantages import group_advantages
from pipelines.recipe.changes import differences, marks_of, recipe_sha256, refused
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from tests.support.plain_run import in_no_time
from tests.support.plain_world import make_plain_world, make_world_of_three_judges


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return make_world_of_three_judges(tmp_path)


def train(recipe: Path, out: Path, *settings: str) -> int:
    options = [word for setting in settings for word in ("--set", setting)]
    return in_no_time([str(recipe), "--out", str(out), "--executor", "local", *options])


def lines(out: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_three_rewards_on_three_pools_train_to_one_digest_whatever_their_sizes(recipe_file, tmp_path):
    sizes = ("reward.a.size=1", "reward.b.size=3", "reward.c.size=2")
    assert train(recipe_file, tmp_path / "one") == train(recipe_file, tmp_path / "other", *sizes) == 0
    ends = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "other")]
    assert ends[0]["digest"] == ends[1]["digest"]
    for record in lines(tmp_path / "other", "metrics.jsonl"):
        means = record["rewards"]
        assert record["reward_mean"] == pytest.approx(means["a"] + 2 * means["b"] + 0.5 * means["c"])
        assert {"reward.a", "reward.b", "reward.c"} <= record["busy"].keys()
        assert record["workers"]["reward.b"] == 3
    judged = lines(tmp_path / "one", "heldout.jsonl")[0]
    means = judged["rewards"]
    assert judged["reward"] == pytest.approx(means["a"] + 2 * means["b"] + 0.5 * means["c"])
    assert judged["checks"]


def test_of_one_reward_no_line_has_the_key_of_several(tmp_path):
    assert train(make_plain_world(tmp_path), tmp_path / "run") == 0
    for name in ("metrics.jsonl", "heldout.jsonl"):
        assert all("rewards" not in line for line in lines(tmp_path / "run", name))


def test_a_group_that_one_of_the_rewards_cannot_score_is_left_out(recipe_file, tmp_path):
    assert train(recipe_file, tmp_path / "run", "reward.b.model=plain/blind-to-green") == 0
    left_out = [event for event in lines(tmp_path / "run", "events.jsonl") if event["kind"] == "quarantine"]
    assert left_out
    assert all("reward.b" in event["message"] and "green" in event["caption"] for event in left_out)
    means = [record["rewards"]["b"] for record in lines(tmp_path / "run", "metrics.jsonl") if record["groups"]]
    assert means
    assert np.isfinite(means).all()


def test_each_reward_counts_alike_where_it_is_normalised_within_its_group(recipe_file, tmp_path):
    assert train(recipe_file, tmp_path / "run", "combine.how=normalised") == 0
    first = lines(tmp_path / "run", "metrics.jsonl")[0]
    assert first["reward_mean"] == pytest.approx(0, abs=1e-9)
    assert np.ptp(list(first["rewards"].values())) > 0
    assert group_advantages(np.ones((1, 4)), "group").tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("combine.how=product",), 'the scores of [[reward]] a are below 0: take "weighted_sum"'),
        (tuple(f"reward.{name}.weight=0.0" for name in "abc"), "reward.weight is 0 for every [[reward]]"),
    ],
)
def test_rewards_that_cannot_be_combined_are_refused_at_the_recipe(recipe_file, tmp_path, capsys, settings, told):
    assert train(recipe_file, tmp_path / "run", *settings) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_pool_of_a_reward_is_free_to_change_and_its_weight_and_place_are_not(recipe_file):
    recipe = load_recipe(recipe_file)
    wider = load_recipe(recipe_file, ["reward.b.size=3", "reward.b.max=4"])
    assert recipe_sha256(wider) == recipe_sha256(recipe)
    assert refused(differences(recipe, wider), recipe) == {}
    assert marks_of("reward.b.size", recipe)
    heavier = load_recipe(recipe_file, ["reward.b.weight=3.0"])
    assert list(refused(differences(recipe, heavier), recipe)) == ["reward.b.weight"]
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace('"a"', '"x"').replace('"c"', '"a"').replace('"x"', '"c"'))
    assert "reward" in refused(differences(recipe, load_recipe(recipe_file)), recipe)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.a.name=b", 'reward.name = "b" is there twice'),
        ("reward.a.name=a.b", "a word is expected"),
        ("reward.a.siez=2", "reward[0].siez: no such key; did you mean size?"),
        ("reward.d.size=2", "none is named d: name one of a, b, c"),
        ("reward.size=2", "none is named size: name one of a, b, c"),
        ("reward.b.size=0", "reward[1].size = 0: must be greater than or equal to 1"),
        ("reward.b.min=3", "reward.b.size = 1 lies outside of reward.b.min = 3"),
        ("reward=[]", "at least one reward is expected"),
        ("combine.how=sum", "combine.how"),
    ],
)
def test_a_mistake_in_one_of_several_rewards_is_named(recipe_file, setting, message):
    with pytest.raises(UserError) as error:
        load_recipe(recipe_file, [setting])
    assert message in str(error.value)
