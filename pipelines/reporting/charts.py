"""Charts as inline SVG: lines, bands and stacked areas, coloured by the page, so that they follow its theme."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal

from markupsafe import Markup

from pipelines.evaluation.comparison import known

WIDTH, HEIGHT = 560, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 28
MOST_POINTS = 300  # of a line; a longer one is shown by the means of equal shares

Style = Literal["line", "strong", "faint", "dashed", "dots"]
Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line over steps; gaps are None. `low` and `high` draw a band around it. `color` is a place in the palette."""

    name: str
    xs: Sequence[float]
    ys: Numbers
    color: int = 0
    style: Style = "line"
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Chart:
    """A figure of the report. `legend` holds (name, colour, style, last value) of each line."""

    title: str
    note: str
    svg: Markup
    legend: list[tuple[str, int, str, str]] = field(default_factory=list)
    x_scale: Scale | None = None


@dataclass(frozen=True)
class Scale:
    """Maps a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def line_chart(
    title: str,
    note: str,
    lines: Sequence[Line],
    unit: str = "",
    floor: float | None = None,
    ceiling: float | None = None,
    along: str = "step",
) -> Chart | None:
    """A chart of `lines`, or None where none has a value. The axis shows at least `floor` and `ceiling`.

    along: what the lines are over, as the reading under the pointer calls it.
    """
    lines = [thinned(line) for line in lines if any(map(known, line.ys))]
    if not lines:
        return None
    values = [y for line in lines for ys in (line.ys, line.low or (), line.high or ()) for y in ys if known(y)]
    values += [value for value in (floor, ceiling) if value is not None]
    ticks = nice_ticks(min(values), max(values))
    x_scale, y_scale = _scales([x for line in lines for x in line.xs], ticks)
    parts = [_axes(x_scale, y_scale, ticks, unit)]
    parts += [_band(line, x_scale, y_scale) for line in lines if line.low is not None]
    parts += [_stroke(line, x_scale, y_scale) for line in lines]
    return Chart(title, note, _svg(parts, lines, x_scale, unit, along), _legend(lines, unit), x_scale)


def stacked_chart(title: str, note: str, lines: Sequence[Line], unit: str = "") -> Chart | None:
    """A chart of `lines` (of the same steps) as areas on top of each other, or None where none has a value."""
    lines = [thinned(line) for line in lines if any(map(known, line.ys))]
    if not lines:
        return None
    sums = [0.0] * len(lines[0].xs)
    areas: list[Line] = []
    for line in lines:
        above = [total + (y or 0.0) for total, y in zip(sums, line.ys, strict=True)]
        areas.append(Line(line.name, line.xs, above, line.color, low=sums, high=above))
        sums = above
    ticks = nice_ticks(0.0, max(sums))
    x_scale, y_scale = _scales(lines[0].xs, ticks)
    parts = [_axes(x_scale, y_scale, ticks, unit)]
    parts += [_band(area, x_scale, y_scale, "area") for area in areas]
    return Chart(title, note, _svg(parts, lines, x_scale, unit), _legend(lines, unit), x_scale)


def marked(chart: Chart, steps: Iterable[int], words: str) -> Chart:
    """The chart with an upright line at each of these steps, which says `words` and the step under the pointer."""
    scale = chart.x_scale
    seen = [step for step in steps if scale and scale.low <= step <= scale.high]
    marks = "".join(
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"><title>{escape(f"{words} {step}")}</title></line>'
        for step in seen
        if scale
        for x in [scale(step)]
    )
    return replace(chart, svg=Markup(str(chart.svg).removesuffix("</svg>") + marks + "</svg>"))


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """`line` with at most `most` points, each the mean of an equal share of the known ones."""
    size = -(-len(line.xs) // most)
    if size <= 1:
        return line
    return Line(
        name=line.name,
        xs=[x for x in _bucket_means(line.xs, size) if x is not None],
        ys=_bucket_means(line.ys, size),
        color=line.color,
        style=line.style,
        low=None if line.low is None else _bucket_means(line.low, size),
        high=None if line.high is None else _bucket_means(line.high, size),
    )


def smoothed(ys: Numbers, steps: float) -> list[float | None]:
    """The exponential moving average of `ys` over about `steps` values, corrected for its start; gaps stay gaps."""
    keep = 1 - 1 / max(1.0, steps)
    total = weight = 0.0
    means: list[float | None] = []
    for y in ys:
        if known(y):
            total, weight = keep * total + y, keep * weight + 1
        means.append(total / weight if known(y) else None)
    return means


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """About `most` round values at equal distances that enclose [low, high]."""
    if high - low <= 1e-12 * max(1.0, abs(high)):
        low, high = (low - 0.1 * abs(low), high + 0.1 * abs(high)) if high else (0.0, 1.0)
    rough = (high - low) / (most - 2)
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= rough * (1 - 1e-9))
    # A value that passes a tick by 2 % of a step does not ask for another one.
    first, last = math.floor(low / step + 0.02), math.ceil(high / step - 0.02)
    return [index * step for index in range(first, last + 1)]


def number(value: float | None, unit: str = "") -> str:
    """A value as people read it: three significant digits; `unit` "%" takes a share in [0, 1]."""
    if not known(value):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    digits = re.sub(r"e-0*", "e-", digits)
    return digits.replace("-", "−") + (f" {unit}" if unit else "")


def _bucket_means(values: Numbers, size: int) -> list[float | None]:
    means: list[float | None] = []
    for start in range(0, len(values), size):
        share = [value for value in values[start : start + size] if known(value)]
        means.append(sum(share) / len(share) if share else None)
    return means


def _scales(xs: Iterable[float], ticks: Sequence[float]) -> tuple[Scale, Scale]:
    xs = list(xs)
    x_scale = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    return x_scale, Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)


def _axes(x_scale: Scale, y_scale: Scale, ticks: Sequence[float], unit: str) -> str:
    parts = []
    for tick in ticks:
        y = y_scale(tick)
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick, ticks, unit)}</text>'
        )
    for step in nice_ticks(x_scale.low, x_scale.high, most=8):
        if x_scale.low <= step <= x_scale.high and step == int(step):
            x, y = x_scale(step), HEIGHT - BOTTOM + 18
            parts.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{step:,.0f}</text>')
    return "".join(parts)


def _tick(tick: float, ticks: Sequence[float], unit: str) -> str:
    """A tick's label, with as many decimals as tell it from its neighbour."""
    factor, suffix = (100, " %") if unit == "%" else (1, "")
    step = (ticks[1] - ticks[0]) * factor
    if step < 1e-4:
        return number(tick * factor) + suffix if tick else "0" + suffix
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += abs(round(step, decimals) - step) > 1e-9 * step
    return f"{tick * factor:,.{decimals}f}{suffix}".replace("-", "−")


def _stroke(line: Line, x_scale: Scale, y_scale: Scale) -> str:
    points = [(x_scale(x), y_scale(y)) for x, y in zip(line.xs, line.ys, strict=True) if known(y)]
    if line.style == "dots" or len(points) == 1:
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in points)
        return f'<g class="dots c{line.color}">{dots}</g>'
    return f'<polyline class="{line.style} c{line.color}" points="{_points(points)}"/>'


def _band(line: Line, x_scale: Scale, y_scale: Scale, kind: str = "band") -> str:
    edges = zip(line.xs, line.low or (), line.high or (), strict=True)
    rows = [(x_scale(x), y_scale(low), y_scale(high)) for x, low, high in edges if known(low) and known(high)]
    outline = [(x, high) for x, _, high in rows] + [(x, low) for x, low, _ in reversed(rows)]
    return f'<polygon class="{kind} c{line.color}" points="{_points(outline)}"/>'


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(parts: Sequence[str], lines: Sequence[Line], x_scale: Scale, unit: str, along: str = "step") -> Markup:
    """The drawing, with the figures for the reading under the pointer."""
    series = [
        {
            "name": line.name,
            "color": line.color,
            "xs": list(line.xs),
            "ys": [float(f"{y:.4g}") if known(y) else None for y in line.ys],
        }
        for line in lines
        if line.style != "faint"
    ]
    data = {
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "low": x_scale.low,
        "high": x_scale.high,
        "unit": unit,
        "along": along,
        "series": series,
    }
    names = escape(", ".join(line.name for line in lines))
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{names}" data-chart="{escape(json.dumps(data))}">'
        f'{"".join(parts)}<line class="pointer" y1="{TOP}" y2="{HEIGHT - BOTTOM}" visibility="hidden"/></svg>'
    )


def _legend(lines: Sequence[Line], unit: str) -> list[tuple[str, int, str, str]]:
    entries: list[tuple[str, int, str, str]] = []
    for line in lines:
        last = next((y for y in reversed(line.ys) if known(y)), None)
        if line.style != "faint":
            entries.append((line.name, line.color, line.style, number(last, unit)))
    return entries
