"""The figures of several runs in words, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.comparison import Difference, by_category, known, total_of
from pipelines.evaluation.statistics import Interval
from pipelines.reporting.charts import number
from pipelines.reporting.facts import duration
from pipelines.reporting.side_by_side.heldout import Block, Row
from pipelines.reporting.side_by_side.run import NOTHING, Run
from pipelines.run_folder.records import HeldoutRecord

OVERVIEW = ("state", "steps", "images", "time", "images/s", "reward", "digest")


def overview(run: Run) -> list[str]:
    """A run in a row: the cells of OVERVIEW. The reward is the mean of the last tenth of its steps."""
    if not run.metrics:
        return [run.status_words, *[NOTHING] * (len(OVERVIEW) - 1)]
    images, seconds = run.at("image")[run.steps], run.at("second")[run.steps]
    asked = run.value("loop.steps")
    rewards = [record.reward_mean for record in run.metrics if known(record.reward_mean)]
    late = rewards[-max(1, len(rewards) // 10) :]
    return [
        run.status_words,
        f"{run.steps:,} of {asked:,}" if asked else f"{run.steps:,}",
        f"{images:,.0f}" if images else NOTHING,
        duration(seconds),
        number(images / seconds) if images and seconds else NOTHING,
        number(sum(late) / len(late)) if late else NOTHING,
        (run.digest or NOTHING)[:12],
    ]


def heldout_titles(block: Block) -> list[str]:
    """Of the cells of `heldout_cells`."""
    over = [f"over {block.first.name}"] if block.first else []
    return ["evaluated", "base", "trained", "95 % interval", "gain", *over]


def heldout_cells(row: Row, block: Block) -> list[str]:
    """A run's row in a table of held-out figures."""
    unit = "%" if block.share else ""
    over = [NOTHING if row.run is block.first else difference_words(row.over_first, block.share)]
    return [
        evaluated_words(row.last or row.base),
        number(row.base_total, unit),
        number(row.total, unit),
        interval_words(row.interval, block.share),
        difference_words(row.gain, block.share),
        *(over if block.first else ()),
    ]


def category_rows(block: Block) -> list[tuple[str, list[str]]]:
    """(name, a cell for each run) of every category, and of the checker's further figures and the reward."""
    records = [row.last for row in block.rows]
    unit = "%" if block.share else ""
    rows = []
    for name in block.categories:
        values = [by_category(record, block.measure).get(name) if record else None for record in records]
        rows.append((name, [number(value, unit) for value in values]))
    for name in block.others:
        values = [total_of(record, name) if record else None for record in records]
        rows.append((name, [number(value, "%" if name in block.shares else "") for value in values]))
    return rows


def caveats(block: Block) -> list[str]:
    """What must be known before a table of held-out figures is read."""
    found = [f"With {block.conditions}."] if block.conditions else []
    if len(block.rows) == 1:
        found.append(f"Only {block.rows[0].run.name} was evaluated like this: there is nothing to compare it with.")
    if partial := [row.run.name for row in block.rows if row.last and row.last.tag != "after"]:
        found.append(
            f"{listed(partial)}: not evaluated at the end. The figures are of an evaluation on the way, on fewer images, "
            "and are compared with no others."
        )
    if untrained := [row.run.name for row in block.rows if not row.last]:
        found.append(f"{listed(untrained)}: only the base is evaluated.")
    if len({str(row.run.value("run.seed")) for row in block.rows}) > 1:
        found.append("run.seed differs, and with it the noise of the images: so the bases differ too.")
    pairs = sorted({row.over_first.prompts for row in block.rows if row.over_first and row.run is not block.first})
    if pairs:
        counts = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        found.append(f"Differences are paired by prompt, with a 95 % interval by bootstrap over {counts} prompts.")
    if unpaired := [row.run.name for row in block.rows if row.last and row.last.tag == "after" and not row.over_first]:
        names = [name for name in unpaired if block.first and name != block.first.name]
        if names:
            found.append(
                f"{listed(names)}: no prompt in common with {block.first.name if block.first else 'the first'}."
            )
    return found


def alike(runs: Sequence[Run]) -> list[str]:
    """Which runs ended with one digest, in sentences."""
    same: dict[str, list[str]] = {}
    for run in runs:
        if run.digest and run.status == "done" and run.steps:
            same.setdefault(run.digest, []).append(run.name)
    return [f"{listed(names)} have the same digest: equal to the bit." for names in same.values() if len(names) > 1]


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def evaluated_words(record: HeldoutRecord | None) -> str:
    """When, and on how many images."""
    if record is None:
        return NOTHING
    return f"step {record.step:,}" + (f", {record.images:,} images" if record.images else "")


def difference_words(found: Difference | None, share: bool) -> str:
    """A difference and its interval: points for shares."""
    if found is None:
        return NOTHING
    value = f"{100 * found.value:+.1f}" if share else f"{found.value:+.3f}"
    return value.replace("-", "−") + (f" ({interval_words(found.interval, share, '+')})" if found.interval else "")


def interval_words(found: Interval | None, share: bool, sign: str = "") -> str:
    """An interval's ends: in percent for shares."""
    if found is None:
        return NOTHING
    ends = [f"{100 * end:{sign}.1f}" if share else f"{end:{sign}.3f}" for end in found]
    return " to ".join(ends).replace("-", "−")
