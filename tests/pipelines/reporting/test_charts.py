"""Charts: round ticks, gaps that stay gaps, and long lines that keep their mean."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest

from pipelines.reporting.charts import Line, line_chart, nice_ticks, number, smoothed, stacked_chart, thinned


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3.7, 12.0), (0.981, 1.044), (1e-6, 3e-6), (5.0, 5.0), (0.0, 0.0)]
)
def test_ticks_enclose_the_values_at_equal_distances(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + 0.02 * step
    assert ticks[-1] >= high - 0.02 * step
    assert all(math.isclose(b - a, step) for a, b in itertools.pairwise(ticks))


def test_a_long_line_is_shown_by_means() -> None:
    line = Line("a", list(range(1000)), [float(x) for x in range(1000)])
    thin = thinned(line, most=100)
    assert len(thin.xs) == 100
    assert (thin.xs[0], thin.ys[0]) == (4.5, 4.5)
    assert sum(y for y in thin.ys if y is not None) / 100 == pytest.approx(499.5)


def test_the_moving_average_is_not_pulled_to_zero_at_the_start() -> None:
    assert smoothed([2.0, 2.0, None, 2.0], steps=50) == [2.0, 2.0, None, 2.0]
    assert smoothed([1.0, 3.0], steps=1) == [1.0, 3.0]


def test_values_that_are_missing_are_not_drawn() -> None:
    chart = line_chart("t", "n", [Line("a", [1, 2, 3], [0.0, math.nan, 1.0])])
    assert chart is not None
    points = re.search(r'<polyline class="line c0" points="([^"]*)"', chart.svg)
    assert points is not None
    assert len(points[1].split()) == 2
    data = re.search(r'data-chart="([^"]*)"', chart.svg)
    assert data is not None
    assert json.loads(data[1].replace("&quot;", '"'))["series"][0]["ys"] == [0.0, None, 1.0]


def test_a_chart_without_values_is_left_out() -> None:
    assert line_chart("t", "n", [Line("a", [1, 2], [None, math.nan]), Line("b", [], [])]) is None
    assert stacked_chart("t", "n", []) is None


def test_stacked_areas_stand_on_each_other() -> None:
    chart = stacked_chart("t", "n", [Line("a", [1, 2], [1.0, 1.0], 0), Line("b", [1, 2], [2.0, 2.0], 1)])
    assert chart is not None
    first, second = re.findall(r'<polygon class="area c\d" points="([^"]*)"', chart.svg)
    tops = [{point.split(",")[1] for point in area.split()} for area in (first, second)]
    assert len(tops[0] & tops[1]) == 1  # the upper edge of the first is the lower edge of the second


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "%", "12.3 %"),
        (-0.02461, "", "−0.0246"),
        (12345.6, "", "12,346"),
        (1.5, "s", "1.5 s"),
        (None, "s", "–"),
    ],
)
def test_numbers_are_short(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text
