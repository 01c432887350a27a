"""The table of metrics: paths into records, names for TensorBoard, and a page that explains each."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipelines.monitoring.metric_table import TABLE, Metric, figures, scalars

PAGE = Path(__file__).parents[3] / "docs" / "monitoring.md"


def test_figures_are_found_by_their_paths_with_what_tells_them_apart() -> None:
    record = {
        "reward_mean": -1.5,
        "ratio_p05": 0.5,
        "ratio_p95": 2,
        "queue_s": {"score": 3.0},
        "seconds": {"step": 4.0, "draw": 1.0},
    }
    found = [(metric.name, labels, value) for metric, labels, value in figures("step", record)]
    assert found == [
        ("echoray_reward_mean", (), -1.5),
        ("echoray_ratio", ("ratio_p05",), 0.5),
        ("echoray_ratio", ("ratio_p95",), 2.0),
        ("echoray_step_seconds", (), 4.0),
        ("echoray_queue_seconds", ("score",), 3.0),
    ]


def test_a_flag_is_a_number_and_what_is_none_is_left_out() -> None:
    status = {"admission_paused": True, "step": None, "bytes_in_flight": math.nan, "state": "running", "pools": {}}
    assert [(metric.name, value) for metric, _, value in figures("status", status)] == [
        ("echoray_admission_paused", 1.0)
    ]


def test_failures_are_counted_by_cause_and_workers_by_pool() -> None:
    status = {"retries": {"raised": 2, "deadline": 1}, "pools": {"reward": {"wanted": 3, "elastic": True, "max": None}}}
    assert [(metric.name, metric.kind, labels, value) for metric, labels, value in figures("status", status)] == [
        ("echoray_pool_wanted", "gauge", ("reward",), 3.0),
        ("echoray_failures", "counter", ("raised",), 2.0),
        ("echoray_failures", "counter", ("deadline",), 1.0),
    ]


def test_held_out_figures_are_told_apart_by_guidance() -> None:
    record = {"step": 2, "guidance": 2.0, "reward": 0.5, "accuracy": None}
    assert scalars("heldout", record) == {"learning/heldout_reward/2": 0.5}


def test_a_checkers_figures_are_published_under_any_name_and_by_category() -> None:
    by_category = {"a.b": 0.25, "c/d": None}
    record = {"guidance": 1.0, "checks": {"legible": 0.5}, "checks_by_category": {"legible": by_category}}
    assert scalars("heldout", record) == {
        "learning/heldout_check/1/legible": 0.5,
        "learning/heldout_check_by_category/1/legible/a.b": 0.25,
    }


def test_each_of_several_rewards_is_published_by_its_name() -> None:
    assert scalars("step", {"rewards": {"echo": 0.5, "small": -2.0}}) == {
        "learning/reward_by_name/echo": 0.5,
        "learning/reward_by_name/small": -2.0,
    }
    assert scalars("heldout", {"guidance": 1.0, "rewards": {"echo": 0.25}}) == {
        "learning/heldout_reward_by_name/1/echo": 0.25
    }


def test_names_are_unique_and_follow_prometheus() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"echoray_[a-z_]+", name) for name in names)
    assert not [metric.name for metric in TABLE if metric.name.endswith("_total")], "Ray adds it to counters"


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_metric_has_a_label_for_each_part_of_its_path_that_has_several_ways(metric: Metric) -> None:
    assert len(metric.labels) == sum(part == "*" or "|" in part for part in metric.path.split("."))


def test_every_metric_is_explained_on_its_page_under_its_group() -> None:
    text = PAGE.read_text()
    for metric in TABLE:
        section = text.partition(f"\n### {metric.group}\n")[2].partition("\n### ")[0]
        assert f"| `{metric.name}`" in section, f"{metric.name} is not explained under {metric.group}"
    assert set(re.findall(r"^\| `(echoray_\w+)`", text, re.MULTILINE)) == {metric.name for metric in TABLE}
