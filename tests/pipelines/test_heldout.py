"""The comparison at the end of a run: which evaluation stands in which column."""

from __future__ import annotations

from pipelines.heldout import compare


def record(tag: str, guidance: float, accuracy: float | None, reward: float = 0.5, step: int = 0) -> dict:
    by_category = {} if accuracy is None else {"colours": accuracy}
    scores = {
        "accuracy": accuracy,
        "by_category": by_category,
        "reward": reward,
        "reward_by_category": {"colours": reward},
    }
    return {"tag": tag, "step": step, "guidance": guidance, "images": 10, **scores}


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
    assert not comparison.exact
    assert [(column.key, column.total) for column in comparison.columns] == [("before", -2.0), ("base_best", -1.0)]


def test_nothing_evaluated_is_nothing_to_compare() -> None:
    assert compare([]).columns == ()
