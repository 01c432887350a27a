"""Curves of several runs over each other: at equal steps, images or seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pipelines.evaluation.comparison import known, total_of
from pipelines.reporting.charts import Chart, Line, Style, line_chart, smoothed
from pipelines.reporting.side_by_side.heldout import Block, judge_of
from pipelines.reporting.side_by_side.run import Along, Run
from pipelines.run_folder.records import Figure, StepRecord

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
        charts = [_figure(moving, along, *row) for row in FIGURES] + _each_reward(moving, along)
        charts += [_heldout(block, along) for block in blocks]
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
    if key == "reward_mean":
        note += _said_of_judges(runs)
    return _averages(runs, along, lambda record: record.figure(key), title, note)


def _each_reward(runs: Sequence[Run], along: Along) -> list[Chart | None]:
    """A chart for each name that one of several rewards has in a run."""
    names = {name: None for run in runs for record in run.metrics for name in record.rewards}
    charts = []
    for name in names:
        having = [run for run in runs if any(name in record.rewards for record in run.metrics)]
        note = "One of several rewards by itself, in its own units." + _said_of_judges(having)
        charts.append(_averages(having, along, partial(_named, name), f"Reward {name}", note))
    return charts


def _named(name: str, record: StepRecord) -> Figure:
    return record.rewards.get(name)


def _said_of_judges(runs: Sequence[Run]) -> str:
    """A warning where the runs' rewards differ."""
    differ = len({judge_of(run) for run in runs}) > 1
    return " These runs have different rewards, whose heights do not compare." if differ else ""


def _averages(
    runs: Sequence[Run], along: Along, value: Callable[[StepRecord], Figure], title: str, note: str
) -> Chart | None:
    window = max((len(run.metrics) for run in runs), default=0) / 20
    lines = [
        _line(run, along, [record.step for record in run.metrics], smoothed([*map(value, run.metrics)], window))
        for run in runs
    ]
    return line_chart(title, note + (" Moving averages." if window > 1 else ""), lines, along=along)


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
