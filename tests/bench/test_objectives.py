"""The study of objectives: where a curve reaches an accuracy, what its table says, and one small run."""

import json
from pathlib import Path

import pytest

from bench.objectives import Point, Variant, figure, learn, reached, sizes, summarise, variants
from pipelines.recipe.load import load_recipe

CURVE = [Point(0, 1.0, 0.4), Point(10, 2.0, 0.5), Point(20, 4.0, 0.45), Point(30, 5.0, 0.65)]


def test_an_accuracy_is_reached_on_the_line_between_evaluations():
    assert reached(CURVE, 0.3) == CURVE[0]
    assert reached(CURVE, 0.45) == Point(5, pytest.approx(1.5), 0.45)
    assert reached(CURVE, 0.55) == Point(25, pytest.approx(4.5), 0.55)
    assert reached(CURVE, 0.7) is None


def test_a_row_has_medians_of_the_runs_that_reached_it():
    slower = [Point(point.step, 2 * point.seconds, point.accuracy - 0.1) for point in CURVE]
    [row] = summarise({"awm": [CURVE, slower]}, 0.6)
    assert row["final"] == [0.65, pytest.approx(0.55)]
    assert row["reached"] == 1
    assert row["images"] == 28 * 96  # step 27.5, rounded to even
    assert row["seconds"] == pytest.approx(4.75 - 1.0)
    assert row["before"] == pytest.approx(0.35)
    [never] = summarise({"awm": [slower]}, 0.9)
    assert never["images"] is None


def test_every_objective_and_every_lag_is_compared():
    assert [variant.name for variant in variants("objectives")] == ["awm", "flow_grpo", "nft"]
    assert next(variant.name for variant in variants("staleness") if "corrected" in variant.name) == "S = 1, corrected"
    assert len(variants("staleness")) == 7


def test_the_recipes_of_every_study_are_accepted():
    for study in ("objectives", "staleness", "flow_grpo"):
        recipes = [load_recipe(Path(variant.recipe), variant.changes) for variant in variants(study)]
        assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)


def test_a_small_run_is_not_repeated(tmp_path):
    variant, folder = Variant("awm", "recipes/toy.toml"), tmp_path / "awm-0"
    points = learn(variant, 0, sizes(1, quick=True), folder)
    assert [point.step for point in points] == [0, 1]
    assert 0 < points[0].seconds <= points[1].seconds
    written = (folder / "curve.json").read_text()
    assert learn(variant, 0, sizes(1, quick=True), folder) == points
    assert json.loads(written)[0]["accuracy"] == points[0].accuracy


def test_the_figure_is_one_svg_with_both_curves():
    svg = figure({"awm": [CURVE, CURVE], "nft": [CURVE]})
    assert svg.count("<polyline") == 4
    assert svg.count("<svg") == 1
    assert "CPU seconds" in svg
