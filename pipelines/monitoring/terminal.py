"""Live progress of a run for the person at the terminal; one plain line a step where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster import speaking
from pipelines.evaluation.comparison import (
    Comparison,
    compare,
    known,
    measure_of,
    measure_words,
    shares,
    total_of,
)
from pipelines.monitoring.bar import progress_bar
from pipelines.monitoring.watchers import Record, Watcher
from pipelines.run_folder.records import HeldoutRecord, StepRecord

BARS = "▁▂▃▄▅▆▇█"
Shown = tuple[str, float | None, str]  # name, value, format


class Display(Watcher):
    """Shows a run's progress: a live view at a terminal, lines elsewhere."""

    def __init__(self, total_steps: int, title: str, console: Console | None = None) -> None:
        self.total_steps = total_steps
        self.title = title
        self.console = console or speaking.console()
        self._last: StepRecord | None = None
        self._rewards: list[float] = []
        self._evaluations: list[HeldoutRecord] = []
        self._pools: dict[str, Any] = {}
        self._evaluating: Record | None = None
        self._said = (-1, 0)  # the evaluation and its quarter that a log heard of
        # Step and time of the first record: what came before it, such as the evaluation of the base, is no guide to the rest.
        self._first: tuple[int, float] | None = None
        self._progress = progress_bar(self.console)
        self._bar = self._progress.add_task(title, total=total_steps)
        self._live = Live(get_renderable=self._view, console=self.console, refresh_per_second=4)

    def open(self) -> None:
        if self.console.is_terminal:
            self._live.start()
        else:
            self._print(f"{self.title}: {self.total_steps} steps")

    def close(self) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def status(self, status: Record) -> None:
        self._pools = status["pools"]
        self._check_heard()
        self._evaluating = status.get("evaluating")
        if self._evaluating and not self.console.is_terminal:
            self._say_quarters(self._evaluating)

    def _say_quarters(self, evaluating: Record) -> None:
        """In a log: a line for each quarter of an evaluation that is done."""
        step, quarter = evaluating["step"], 4 * evaluating["settled"] // evaluating["groups"]
        if quarter and (step, quarter) > self._said:
            self._said = (step, quarter)
            self._print(evaluating_words(evaluating))

    def step(self, record: StepRecord) -> None:
        self._last = record
        self._first = self._first or (record.step, time.monotonic())
        if known(record.reward_mean):
            self._rewards.append(record.reward_mean)
        self._progress.update(self._bar, completed=record.step)
        if not self.console.is_terminal:
            self._print(f"step {record.step:>4}/{self.total_steps}  {step_words(record)}  {self._left(record.step)}")

    def heldout(self, record: HeldoutRecord) -> None:
        self._evaluations.append(record)
        if not self.console.is_terminal:
            words = heldout_words(record, shares(self._evaluations))
            self._print(f"held out at step {record.step}: {words}")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        speaking.say(self.console, text)
        self._check_heard()

    def _check_heard(self) -> None:
        """Raises what took the terminal away, if it is away."""
        if error := speaking.lost(self.console):
            self.close()
            raise error

    def _left(self, step: int) -> str:
        assert self._first is not None
        first_step, first_time = self._first
        if step == first_step:
            return ""
        per_step = (time.monotonic() - first_time) / (step - first_step)
        return f"left {clock(per_step * (self.total_steps - step))}"

    def _view(self) -> Group:
        """The lines below the bar; a line appears when there is something to say."""
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim")
        lines.add_column()
        if self._last:
            lines.add_row("reward", Text(f"{sparkline(self._rewards)}  {reward_words(self._last)}"))
            lines.add_row("update", Text(update_words(self._last)))
        if self._evaluating:
            lines.add_row("evaluating", Text(evaluating_words(self._evaluating)))
        if self._evaluations:
            lines.add_row("held out", Text(" → ".join(_heldout_trail(self._evaluations))))
        if self._pools:
            pools = [
                f"{name} {pool['busy']}/{pool['ready']} busy{_missing(pool)}" for name, pool in self._pools.items()
            ]
            lines.add_row("workers", Text(" · ".join(pools)))
        return Group(self._progress, lines)


def heldout_table(records: list[HeldoutRecord]) -> Table:
    """The table for the end of a run: the measure by category, of the base and of the trained model; then the checker's other figures."""
    comparison = compare(records)
    title = measure_words(comparison.measure) + (", %" if comparison.share else "")
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("category", no_wrap=True)
    for column in comparison.columns:
        table.add_column(f"{column.model}\n{column.guidance}", justify="right")
    table.add_column("gain\n", justify="right")
    for category in comparison.categories:
        values = [column.values.get(category) for column in comparison.columns]
        table.add_row(Text(category), *_cells(comparison, values, comparison.share))
    table.add_section()
    totals = [column.total for column in comparison.columns]
    table.add_row("macro", *_cells(comparison, totals, comparison.share), style="bold")
    for name in comparison.others:
        share = name in comparison.shares
        values = [column.others.get(name) for column in comparison.columns]
        table.add_row(Text(name + (", %" if share else "")), *_cells(comparison, values, share), style="dim")
    if comparison.gain_interval:
        low, high = (_gain(edge, 0.0, comparison.share) for edge in comparison.gain_interval)
        table.caption = f"gain: 95 % interval {low} to {high}, bootstrap over {comparison.prompts} prompts"
        table.caption_justify = "left"
    return table


def _cells(comparison: Comparison, values: Sequence[float | None], share: bool) -> list[str]:
    """A row of figures, and the gain of the trained model over the base, both without guidance."""
    at = {column.key: value for column, value in zip(comparison.columns, values, strict=True)}
    return [*(_score(value, share) for value in values), _gain(at.get("after"), at.get("before"), share)]


def step_words(record: StepRecord) -> str:
    """A step in one line: what was learned, how fast, and how busy the pools were; what was not measured is left out."""
    learned = (
        ("loss", record.figure("loss"), "{:.3g}"),
        ("staleness", record.staleness_mean, "{:.2g}"),
    )
    busy = " ".join(f"{pool} {share:.0%}" for pool, share in record.busy.items())
    parts = [f"reward {reward_words(record)}", _words((*learned, *_speed(record))), busy and f"busy {busy}"]
    return "  ".join(filter(None, parts))


def reward_words(record: StepRecord) -> str:
    """The reward of a step: mean and standard deviation over its images."""
    mean, std = record.reward_mean, record.reward_std
    return f"{mean:.3f}" + (f" ±{std:.3f}" if known(std) else "") if known(mean) else "–"


def update_words(record: StepRecord) -> str:
    """The update of a step: distance to the reference, clip fraction, speed; what was not measured is left out."""
    shown = (
        ("kl", record.figure("kl_reference"), "{:.4f}"),
        ("clip", record.figure("clip_fraction"), "{:.1%}"),
        ("grad", record.figure("grad_norm"), "{:.3f}"),
    )
    return _words((*shown, *_speed(record)))


def heldout_words(record: HeldoutRecord, share: frozenset[str] = frozenset()) -> str:
    """An evaluation in a few words: the checker's figures, and the reward. `share`: those figures that are shares."""
    words = [
        f"{name} {value:.1%}" if name in share else f"{name} {value:.3f}"
        for name, value in record.checks.items()
        if known(value)
    ]
    words += [f"reward {record.reward:.3f}"] if known(record.reward) else []
    images = "?" if record.images is None else record.images
    return ", ".join(words) + f" (guidance {record.guidance:g}, {images} images)"


def evaluating_words(evaluating: Record) -> str:
    """How far an evaluation is (`Control.status`)."""
    model = "the base" if evaluating["step"] == 0 else f"step {evaluating['step']}"
    return f"evaluating {model} on held-out prompts: {evaluating['settled']} of {evaluating['groups']} groups"


def sparkline(values: list[float], width: int = 40) -> str:
    """The course of `values` in one line of at most `width` bars, each the mean of its share."""
    if not values:
        return ""
    per_bar = -(-len(values) // width)
    shares = [values[start : start + per_bar] for start in range(0, len(values), per_bar)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _heldout_trail(records: list[HeldoutRecord], most: int = 6) -> list[str]:
    """The evaluations without extra guidance, oldest first; of many, the first and the latest."""
    chosen = [record for record in records if record.guidance == records[0].guidance]
    shown = chosen if len(chosen) <= most else [chosen[0], *chosen[1 - most :]]
    measure = measure_of(records)
    share = measure in shares(records)
    return [_score(total_of(record, measure), share) + ("%" if share else "") for record in shown]


def _missing(pool: Record) -> str:
    return "" if pool["ready"] == pool["wanted"] else f" ({pool['wanted']} wanted)"


def _speed(record: StepRecord) -> tuple[Shown, ...]:
    return ("images/s", record.images_per_s, "{:.1f}"), ("step", record.seconds.get("step"), "{:.2f} s")


def _words(shown: tuple[Shown, ...]) -> str:
    return "  ".join(f"{name} {form.format(value)}" for name, value, form in shown if known(value))


def _score(value: float | None, share: bool) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if share else f"{value:.3f}"


def _gain(after: float | None, before: float | None, share: bool) -> str:
    if after is None or before is None or math.isnan(after - before):
        return "–"
    return f"{100 * (after - before):+.1f}" if share else f"{after - before:+.3f}"
