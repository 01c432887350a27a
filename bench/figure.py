"""Charts of the report as one SVG file that stands alone, for a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from pipelines.reporting.charts import HEIGHT, LEFT, WIDTH, Chart

COLORS = ("#2a6fdb", "#d9822b", "#3a9e5c", "#a04bbf", "#c23b4b", "#4aa3a8", "#7a6a53")
STYLE = """svg{background:#fff;font:12px sans-serif}.grid{stroke:#e3e3e3}.zero{stroke:#9a9a9a}
.tick{fill:#666;font-size:11px}.title{font-weight:600;font-size:14px}polyline{fill:none;stroke-width:2}
.faint{opacity:.35}.dashed{stroke-dasharray:5 4}polygon{stroke:none;opacity:.16}"""
HEAD, GAP = 46, 24


def standalone(charts: Sequence[Chart]) -> str:
    """The charts side by side, each with its title and legend above it."""
    width = len(charts) * WIDTH + (len(charts) - 1) * GAP
    body = "".join(_placed(chart, i * (WIDTH + GAP)) for i, chart in enumerate(charts))
    colors = "".join(
        f"polyline.c{i}{{stroke:{color}}}polygon.c{i},.dots.c{i},text.c{i}{{fill:{color}}}"
        for i, color in enumerate(COLORS)
    )
    size = f'width="{width}" height="{HEIGHT + HEAD}" viewBox="0 0 {width} {HEIGHT + HEAD}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}{colors}</style>{body}</svg>\n'


def _placed(chart: Chart, x: float) -> str:
    drawing = re.sub(r"^<svg[^>]*>|</svg>$", "", str(chart.svg))
    names, at = [], float(LEFT)
    for name, color, _, last in chart.legend:
        text = f"{name} {last}".strip()
        names.append(f'<text class="c{color}" x="{at:.0f}" y="38">{escape(text)}</text>')
        at += 7.2 * len(text) + 16
    title = f'<text class="title" x="{LEFT}" y="18">{escape(chart.title)}</text>'
    return f'<g transform="translate({x:.0f} 0)">{title}{"".join(names)}<g transform="translate(0 {HEAD})">{drawing}</g></g>'
