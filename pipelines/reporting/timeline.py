"""The timeline of a step as inline SVG: for each chunk when it was drawn, waited, scored, waited and trained."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from pipelines.reporting.charts import LEFT, RIGHT, WIDTH, Chart, Scale, nice_ticks, number
from pipelines.run_folder.records import ChunkSpans, StepRecord, Timeline

MOST_STEPS = 3
ROWS_HEIGHT, THICKEST, BOTTOM = 220, 12, 30
STAGES = (("drawn", "draw", 0), ("scored", "score", 1), ("trained", "update", 2))  # words, key, colour
NOTE = (
    "A row for each chunk; the thin line is waiting: for a judge, then for the last chunk of the step and the policy."
)


def timelines(metrics: Sequence[StepRecord]) -> list[Chart]:
    """The last few steps that have a timeline, in order."""
    found = [(record.step, record.timeline) for record in metrics if record.timeline and record.timeline.chunks]
    return [timeline(*one) for one in found[-MOST_STEPS:]]


def timeline(step: int, found: Timeline) -> Chart:
    """The chart of one step, in seconds since its first draw began."""
    chunks, update = found.chunks, found.update
    ticks = [tick for tick in nice_ticks(0.0, update[1]) if tick <= update[1]]
    scale = Scale(0.0, update[1], LEFT, WIDTH - RIGHT)
    pitch = min(THICKEST * 1.4, ROWS_HEIGHT / len(chunks))
    height = pitch * len(chunks) + BOTTOM
    rows = [_row(chunk, update, scale, pitch * (index + 0.5), pitch) for index, chunk in enumerate(chunks)]
    svg = Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="timeline of step {step}">'
        f"{_axis(ticks, scale, height)}{''.join(rows)}</svg>"
    )
    left_out = found.left_out
    note = NOTE + (f" The first {len(chunks)} of {len(chunks) + left_out} chunks." if left_out else "")
    ends = {"draw": max(chunk.draw[1] for chunk in chunks), "score": max(chunk.score[1] for chunk in chunks)}
    last = {**ends, "update": update[1]}
    legend = [(words, colour, "strong", f"until {number(last[key])} s") for words, key, colour in STAGES]
    return Chart(f"Step {step}", note, svg, legend)


def _row(chunk: ChunkSpans, update: Sequence[float], scale: Scale, middle: float, pitch: float) -> str:
    spans = {"draw": chunk.draw, "score": chunk.score, "update": update}
    name = f"group {chunk.group}, chunk {chunk.chunk}"
    wait = f'<line class="zero" x1="{scale(chunk.draw[0]):.1f}" x2="{scale(update[1]):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
    return wait + "".join(
        _bar(spans[key], f"{name}: {words}", colour, scale, middle, pitch) for words, key, colour in STAGES
    )


def _bar(span: Sequence[float], words: str, colour: int, scale: Scale, middle: float, pitch: float) -> str:
    begin, end = (scale(edge) for edge in span)
    thickness = 0.7 * pitch
    title = escape(f"{words} in {number(span[1] - span[0])} s, from {number(span[0])} s")
    return (
        f'<rect class="c{colour}" x="{begin:.1f}" y="{middle - thickness / 2:.1f}" width="{max(0.8, end - begin):.1f}" '
        f'height="{thickness:.1f}"><title>{title}</title></rect>'
    )


def _axis(ticks: Sequence[float], scale: Scale, height: float) -> str:
    parts = []
    for tick in ticks:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - BOTTOM + 4:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 8:.0f}" text-anchor="middle">{number(tick)} s</text>'
        )
    return "".join(parts)
