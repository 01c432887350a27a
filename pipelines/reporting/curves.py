"""Which curves the report draws from a run's records, each with a sentence on how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.comparison import REWARD, by_category, measure_of, measure_words, shares, total_of
from pipelines.reporting.charts import Chart, Line, Numbers, Style, line_chart, smoothed, stacked_chart
from pipelines.run_folder.records import HeldoutRecord, StepRecord

Value = Callable[[StepRecord], float | None]
STAGES = ("draw", "score", "update")
CATEGORY_COLOURS = 7


@dataclass(frozen=True)
class Palette:
    """One colour for each category, everywhere in the report; beyond the palette's seven the lines are dashed."""

    places: dict[str, int]

    @classmethod
    def of(cls, metrics: Sequence[StepRecord], heldout: Sequence[HeldoutRecord]) -> Palette:
        """Of all categories that are named in a run, in alphabetical order."""
        tables = [record.by_category for record in metrics]
        tables += [by_category(record, measure) for record in heldout for measure in (REWARD, *record.checks)]
        names = sorted({name for table in tables for name in table})
        return cls({name: place for place, name in enumerate(names)})

    def color(self, category: str) -> int:
        """Its place in the page's palette; 0 is for what is no category."""
        return 1 + self.places[category] % CATEGORY_COLOURS

    def line(self, category: str, xs: list[float], ys: Numbers) -> Line:
        """Its line in a chart."""
        style: Style = "line" if self.places[category] < CATEGORY_COLOURS else "dashed"
        return Line(category, xs, ys, self.color(category), style)


def learning_charts(metrics: Sequence[StepRecord], heldout: Sequence[HeldoutRecord], palette: Palette) -> list[Chart]:
    """The curves that say what was learned."""
    plain = _unguided(heldout)
    charts = [
        _reward(metrics, plain),
        *_reward_by_name(metrics, plain),
        *_heldout(plain, palette),
        _reward_by_category(metrics, palette),
        _distance(metrics),
        _ratio(metrics),
    ]
    charts += [_simple(metrics, *row) for row in LEARNING]
    return [chart for chart in charts if chart]


def machine_charts(metrics: Sequence[StepRecord]) -> list[Chart]:
    """The curves that say how the run used its machines."""
    charts = [_seconds(metrics), _busy(metrics), _staleness(metrics)]
    charts += [_simple(metrics, *row) for row in MACHINE]
    return [chart for chart in charts if chart]


# title, how to read it, (name, key) of each line, unit
Row = tuple[str, str, tuple[tuple[str, str], ...], str]
LEARNING: tuple[Row, ...] = (
    (
        "Clipped share",
        "Samples whose ratio lay outside the clip range, so that they no longer pull.",
        (("clipped", "clip_fraction"),),
        "%",
    ),
    (
        "Loss",
        "Of the whole objective, and of its policy term alone. It need not fall: advantages are centred at every step.",
        (("loss", "loss"), ("policy term", "loss_policy")),
        "",
    ),
    ("Gradient norm", "Before clipping.", (("gradient norm", "grad_norm"),), ""),
    (
        "Advantages",
        "Mean and standard deviation over a step's images. Near 0: groups whose images all score alike.",
        (("mean", "advantage_mean"), ("deviation", "advantage_std")),
        "",
    ),
)
MACHINE: tuple[Row, ...] = (
    ("Images a second", "Drawn, scored and trained on.", (("images a second", "images_per_s"),), ""),
)


def _simple(
    metrics: Sequence[StepRecord], title: str, note: str, keys: tuple[tuple[str, str], ...], unit: str
) -> Chart | None:
    lines = []
    for color, (name, key) in enumerate(keys):
        each = _line(metrics, name, _field(key), color)
        lines += [replace(each, style="faint"), replace(each, ys=smoothed(each.ys, len(each.ys) / 20))]
    return line_chart(title, note, lines, unit, floor=0.0)


def _reward(metrics: Sequence[StepRecord], plain: Sequence[HeldoutRecord]) -> Chart | None:
    mean, std = _values(metrics, _field("reward_mean")), _values(metrics, _field("reward_std"))
    steps = _steps(metrics)
    edges = [(None, None) if m is None or s is None else (m - s, m + s) for m, s in zip(mean, std, strict=True)]
    low, high = [edge[0] for edge in edges], [edge[1] for edge in edges]
    lines = [
        Line("each step", steps, mean, 0, "faint", low, high),
        Line("training prompts", steps, smoothed(mean, len(mean) / 20), 0, "strong"),
        Line("held-out prompts", _steps(plain), [record.reward for record in plain], 1, "dots"),
    ]
    note = "Mean over a step's images and its moving average; the band is one standard deviation of single images."
    return line_chart("Reward", note, lines)


def _reward_by_name(metrics: Sequence[StepRecord], plain: Sequence[HeldoutRecord]) -> list[Chart | None]:
    """A chart for each of several rewards: their units differ."""
    note = "One of the rewards by itself, in its own units: its mean over a step's images and its moving average."
    charts = []
    for name in {name: None for record in metrics for name in record.rewards}:
        mean = _values(metrics, _reward_named(name))
        lines = [
            Line("each step", _steps(metrics), mean, 0, "faint"),
            Line("training prompts", _steps(metrics), smoothed(mean, len(mean) / 20), 0, "strong"),
            Line("held-out prompts", _steps(plain), [record.rewards.get(name) for record in plain], 1, "dots"),
        ]
        charts.append(line_chart(f"Reward {name}", note, lines))
    return charts


def _heldout(plain: Sequence[HeldoutRecord], palette: Palette) -> list[Chart | None]:
    """A chart for each figure of the checker, the measure first."""
    measure, share = measure_of(plain), shares(plain)
    names = {measure: None, **{name: None for record in plain for name in record.checks}}
    return [_checked(plain, name, name in share, palette) for name in names if name != REWARD]


def _checked(plain: Sequence[HeldoutRecord], name: str, share: bool, palette: Palette) -> Chart | None:
    steps = _steps(plain)
    categories = {category: None for record in plain for category in by_category(record, name)}
    lines = [
        palette.line(category, steps, [by_category(record, name).get(category) for record in plain])
        for category in categories
    ]
    lines.append(Line("all (macro mean)", steps, [total_of(record, name) for record in plain], 0, "strong"))
    note = "What the checker says of images of held-out prompts, without guidance. The reward never sees it."
    return (
        line_chart(measure_words(name), note, lines, "%", floor=0.0)
        if share
        else line_chart(measure_words(name), note, lines)
    )


def _reward_by_category(metrics: Sequence[StepRecord], palette: Palette) -> Chart | None:
    categories = {name: None for record in metrics for name in record.by_category}
    if len(categories) < 2:
        return None
    lines = []
    for name in categories:
        values = _values(metrics, _reward_of(name))
        lines.append(palette.line(name, _steps(metrics), smoothed(values, len(values) / 10)))
    return line_chart("Reward by category", "Of training prompts, moving averages.", lines)


def _distance(metrics: Sequence[StepRecord]) -> Chart | None:
    lines = [
        _line(metrics, "to the reference", _field("kl_reference"), 0),
        _line(metrics, "to the moving average", _field("kl_ema"), 1),
    ]
    note = "How far the policy is from the base model and from its own moving average: the KL terms, unweighted."
    return line_chart("Distance", note, lines, floor=0.0)


def _ratio(metrics: Sequence[StepRecord]) -> Chart | None:
    low, high = _values(metrics, _field("ratio_p05")), _values(metrics, _field("ratio_p95"))
    steps = _steps(metrics)
    lines = [
        Line("median", steps, _values(metrics, _field("ratio_p50")), 0, "strong", low, high),
        Line("5 % quantile", steps, low, 1),
        Line("95 % quantile", steps, high, 2),
    ]
    note = "Likelihood of a sample under the policy that learns, over the one it is compared with. 1: on policy."
    return line_chart("Ratio", note, lines)


def _staleness(metrics: Sequence[StepRecord]) -> Chart | None:
    lines = [
        replace(_line(metrics, "oldest group", lambda record: record.staleness_max, 1), style="strong"),
        _line(metrics, "mean", lambda record: record.staleness_mean, 0),
    ]
    note = "Policy versions between the one that drew a group and the one that learns from it."
    return line_chart("Staleness", note, lines, floor=0.0, ceiling=1.0)


def _seconds(metrics: Sequence[StepRecord]) -> Chart | None:
    lines = [_line(metrics, stage, _seconds_of(stage), color) for color, stage in enumerate(STAGES)]
    note = "What tasks took during a step, summed over workers, evaluation included. Stages overlap in time."
    return stacked_chart("Seconds by stage", note, lines, "s")


def _busy(metrics: Sequence[StepRecord]) -> Chart | None:
    pools = {name: None for record in metrics for name in record.busy}
    lines = []
    for color, name in enumerate(pools):
        values = _values(metrics, _busy_of(name))
        lines.append(Line(name, _steps(metrics), smoothed(values, len(values) / 30), color))
    note = "Share of the time in which a pool's workers had work; the busiest pool is the bottleneck. Moving averages."
    return line_chart("Busy", note, lines, "%", floor=0.0, ceiling=1.0)


def _unguided(heldout: Sequence[HeldoutRecord]) -> list[HeldoutRecord]:
    """The evaluations at the scale of the first one, one per step, in order."""
    chosen = [record for record in heldout if record.guidance == heldout[0].guidance]
    return sorted({record.step: record for record in chosen}.values(), key=lambda record: record.step)


def _line(records: Sequence[StepRecord], name: str, value: Value, color: int) -> Line:
    return Line(name, _steps(records), _values(records, value), color)


def _steps(records: Sequence[StepRecord | HeldoutRecord]) -> list[float]:
    return [float(record.step) for record in records]


def _values(records: Sequence[StepRecord], value: Value) -> list[float | None]:
    return [value(record) for record in records]


def _field(key: str) -> Value:
    return lambda record: record.figure(key)


def _seconds_of(stage: str) -> Value:
    return lambda record: record.seconds.get(stage)


def _reward_of(category: str) -> Value:
    return lambda record: record.by_category.get(category)


def _reward_named(name: str) -> Value:
    return lambda record: record.rewards.get(name)


def _busy_of(pool: str) -> Value:
    return lambda record: record.busy.get(pool)
