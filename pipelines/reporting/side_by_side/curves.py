"""Curves of several runs over each other: at equal steps, images or seconds."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.comparison import known, total_of
from pipelines.reporting.charts import Chart, Line, Style, line_chart, smoothed
from pipelines.reporting.side_by_side.heldout import Block, judge_of
from pipelines.reporting.side_by_side.run import Along, Run

COLOURS = 8
AXES: tuple[tuple[Along, str], ...] = (("step", "equal steps"), ("image", "equal images"), ("second", "equal seconds"))
FIGURES = (  # key, title, how to read it
    ("reward_mean", "Reward", "Mean over a step's images of training prompts."),
    ("kl_reference", "Distance to the reference", "How far the policy is from the base model, unweighted."),
    ("grad_norm", "Gradient norm", "Before clipping."),
    ("images_per_s", "Images a second", "Drawn, scored and trained on."),
)


def curves(runs: Sequence[Run], blocks: Sequence[Block]) -> list[tuple[str, list[Chart]]]:
    """By what the curves are over, in words: the charts. An axis on which no run moves is left out."""
    made = []
    for along, words in AXES:
        moving = [run for run in runs if max(run.at(along).values()) > 0]
        charts = [_figure(moving, along, *row) for row in FIGURES] + [_heldout(block, along) for block in blocks]
        if shown := [chart for chart in charts if chart]:
            made.append((words, sorted(shown, key=_held_out_first)))
    return made


def color_of(run: Run) -> int:
    """A run's place in the page's palette."""
    return run.place % COLOURS


def style_of(run: Run) -> Style:
    """How a run is drawn: dashed beyond the palette."""
    return "line" if run.place < COLOURS else "dashed"


def _figure(runs: Sequence[Run], along: Along, key: str, title: str, note: str) -> Chart | None:
    window = max((len(run.metrics) for run in runs), default=0) / 20
    lines = [
        _line(run, along, [record.step for record in run.metrics], smoothed(ys, window))
        for run in runs
        for ys in [[record.figure(key) for record in run.metrics]]
    ]
    said = " Moving averages." if window > 1 else ""
    if key == "reward_mean" and len({judge_of(run) for run in runs}) > 1:
        said += " These runs have different rewards, whose heights do not compare."
    return line_chart(title, note + said, lines, along=along)


def _heldout(block: Block, along: Along) -> Chart | None:
    """A block's measure over the training; none where fewer than two runs have it, or none has two evaluations."""
    if not block.compares:
        return None
    lines = []
    for row in block.rows:
        by_step = {record.step: total_of(record, block.measure) for record in block.records[row.run.name]}
        steps = [step for step in sorted(by_step) if step in row.run.at(along)]
        lines.append(_line(row.run, along, steps, [by_step[step] for step in steps]))
    if max(sum(map(known, line.ys)) for line in lines) < 2:
        return None
    note = "Evaluations on the way have fewer images of the same prompts."
    said = f" With {block.conditions}." if block.conditions else ""
    return line_chart(block.title, note + said, lines, "%" if block.share else "", along=along)


def _line(run: Run, along: Along, steps: Sequence[int], ys: Sequence[float | None]) -> Line:
    at = run.at(along)
    return Line(run.name, [at[step] for step in steps], ys, color_of(run), style_of(run))


def _held_out_first(chart: Chart) -> int:
    return 0 if chart.title.startswith("Held-out") else 1
