"""The comparison at the end of a run: which evaluation stands in which column."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.comparison import compare, difference, measure_of, shares
from pipelines.evaluation.statistics import macro_interval
from pipelines.run_folder.records import HeldoutRecord, PromptFigures, Tag


def record(tag: Tag, guidance: float, accuracy: float | None, reward: float = 0.5, step: int = 0) -> HeldoutRecord:
    checks = {} if accuracy is None else {"ghost": 0.25, "accuracy": accuracy}
    scores = {
        "checks": checks,
        "checks_by_category": {name: {"colours": value} for name, value in checks.items()},
        "reward": reward,
        "reward_by_category": {"colours": reward},
    }
    return HeldoutRecord(tag=tag, step=step, guidance=guidance, images=10, **scores)


BEFORE = [record("before", 1.0, 0.4), record("before", 2.0, 0.6), record("before", 3.0, 0.5)]


def test_the_base_at_its_best_stands_beside_the_base() -> None:
    comparison = compare([*BEFORE, record("after", 1.0, 0.7), record("after", 2.0, 0.8)])
    assert [(c.key, c.model, c.guidance, c.total) for c in comparison.columns] == [
        ("before", "base", "no guidance", 0.4),
        ("base_best", "base", "guidance 2", 0.6),
        ("after", "trained", "no guidance", 0.7),
        ("after_best", "trained", "guidance 2", 0.8),
    ]
    assert comparison.categories == ("colours",)


def test_guidance_that_helps_nobody_has_no_column() -> None:
    comparison = compare([record("before", 1.0, 0.4), record("before", 2.0, 0.3), record("after", 1.0, 0.7)])
    assert [column.key for column in comparison.columns] == ["before", "after"]


def test_the_last_evaluation_stands_for_the_end_of_a_run_that_was_stopped() -> None:
    comparison = compare([*BEFORE, record("during", 1.0, 0.45, step=50), record("during", 1.0, 0.5, step=100)])
    after = comparison.column("after")
    assert after is not None
    assert (after.model, after.total) == ("step 100", 0.5)


def test_without_a_checker_the_reward_is_compared() -> None:
    comparison = compare([record("before", 1.0, None, -2.0), record("before", 2.0, None, -1.0)])
    assert (comparison.measure, comparison.share) == ("reward", False)
    assert [(column.key, column.total) for column in comparison.columns] == [("before", -2.0), ("base_best", -1.0)]


def test_nothing_evaluated_is_nothing_to_compare() -> None:
    assert compare([]).columns == ()


def test_models_are_compared_by_accuracy_else_by_the_checkers_first_figure_else_by_the_reward() -> None:
    assert measure_of([record("before", 1.0, 0.4)]) == "accuracy"
    assert measure_of([HeldoutRecord(tag="before", step=0, checks={"legible": 3.5, "ghost": 0.1})]) == "legible"
    assert measure_of([record("before", 1.0, None)]) == "reward"


def test_the_other_figures_of_the_checker_stand_beside_the_measure() -> None:
    comparison = compare([record("before", 1.0, 0.4), record("after", 1.0, 0.7)])
    assert comparison.others == ("ghost",)
    assert [column.others for column in comparison.columns] == [{"ghost": 0.25}] * 2


def test_a_figure_is_a_share_if_it_lies_between_0_and_1_throughout() -> None:
    first, second = (
        HeldoutRecord(tag="before", step=0, checks=checks, checks_by_category={"beauty": {"a": one}})
        for checks, one in (({"legible": 0.5, "beauty": 0.9}, 0.9), ({"legible": 1.0, "beauty": 0.95}, 1.2))
    )
    assert shares([first]) == {"legible", "beauty"}
    assert shares([first, second]) == {"legible"}


def with_prompts(tag: Tag, values: dict[str, float]) -> HeldoutRecord:
    """An evaluation in which "c1", "c2", ... are the prompts of category "c"."""
    prompts = {
        name: PromptFigures(category=name[0], images=4, reward=value, checks={}) for name, value in values.items()
    }
    return record(tag, 1.0, None).model_copy(update={"by_prompt": prompts})


def test_the_gain_has_an_interval_over_prompts_that_both_evaluations_have() -> None:
    before = {f"{category}{n}": 0.01 * n for category in "ab" for n in range(20)}
    after = {name: value + 0.5 for name, value in before.items()}
    comparison = compare([with_prompts("before", before), with_prompts("after", {**after, "a20": 9.0})])
    assert comparison.prompts == 40
    assert comparison.gain_interval == pytest.approx((0.5, 0.5)), "every prompt gained the same"
    low, high = comparison.columns[0].interval or (0.0, 0.0)
    assert low < 0.095 < high


def test_an_interval_is_that_of_the_normal_approximation_for_many_prompts() -> None:
    random = np.random.default_rng(0)
    figures = {name: [(float(value), 4) for value in random.normal(size=400)] for name in ("a", "b")}
    means = [np.mean([value for value, _ in prompts]) for prompts in figures.values()]
    errors = [np.std([value for value, _ in prompts]) / 20 for prompts in figures.values()]
    half = 1.96 * np.sqrt(np.sum(np.square(errors))) / 2
    low, high = macro_interval(figures) or (0.0, 0.0)
    assert (low, high) == pytest.approx((np.mean(means) - half, np.mean(means) + half), abs=0.006)


def test_a_category_of_one_prompt_leaves_the_spread_unknown() -> None:
    assert macro_interval({"a": [(0.5, 4), (0.6, 4)], "b": [(0.5, 4)]}) is None
    assert macro_interval({}) is None


def evaluated(counts: list[int], seed: int) -> HeldoutRecord:
    """Of so many images of each prompt, half of the prompts in each of two categories."""
    random = np.random.default_rng(seed)
    prompts = {
        f"p{number}": PromptFigures(
            category="ab"[number % 2], images=count, reward=0.0, checks={"accuracy": float(random.random())}
        )
        for number, count in enumerate(counts)
    }
    return HeldoutRecord(tag="after", step=1, checks={"accuracy": 0.5}, by_prompt=prompts)


def test_a_paired_difference_is_that_of_a_bootstrap_prompt_by_prompt_written_down_slowly() -> None:
    first, second = evaluated([3] * 30, 1), evaluated([3] * 30, 2)
    found = difference(first, second, "accuracy")
    gains: dict[str, list[float]] = {"a": [], "b": []}
    for name, kept in first.by_prompt.items():
        gains[kept.category].append(second.by_prompt[name].checks["accuracy"] - kept.checks["accuracy"])
    random = np.random.default_rng(5)
    drawn = [np.mean([random.choice(of, len(of)).mean() for of in gains.values()]) for _ in range(4000)]
    assert found.value == pytest.approx(np.mean([np.mean(of) for of in gains.values()]))
    assert found.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    assert found.prompts == 30


def test_a_difference_the_other_way_round_has_the_other_sign_whatever_the_counts_of_images() -> None:
    first, second = evaluated([1, 5, 2, 8, 3, 3] * 4, 1), evaluated([4, 2, 2, 1, 6, 3] * 4, 2)
    there, back = difference(first, second, "accuracy"), difference(second, first, "accuracy")
    assert there.value == pytest.approx(-back.value)
