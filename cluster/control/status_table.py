"""A run's status as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.tasks import STARTING

SILENT_S = 10.0
BAR_WIDTH = 8


def show(run: str, status: dict[str, Any] | None, age_s: float) -> RenderableType:
    """The run's name and progress, its pools, and what went wrong so far."""
    heading = Text(run, style="bold")
    if status is None:
        return heading.append("  has not said anything yet", style="yellow")
    state = status["state"]
    heading.append(f"  {state}", style="green" if state == "running" else "yellow")
    if age_s > SILENT_S:
        heading.append(f"  silent for {clock(age_s)}", style="red")
    if state == STARTING:
        return Group(heading, Text(status["waiting_for"]))
    return Group(
        heading, progress(status), "", pool_table(status["pools"]), *starting(status["pools"]), "", troubles(status)
    )


def progress(status: dict[str, Any]) -> Text:
    """Step, version, speed and reward in one line; of what trains nothing, its rows."""
    if "rows" in status:
        return Text(f"row {status['settled']}/{status['rows']}  {status['failed']} failed  {clock(status['seconds'])}")
    words = [f"step {status['step']}/{status['steps']}", f"version {status['policy_version']}"]
    for value, form in ((status["images_per_s"], "{:.1f} images/s"), (status["reward_mean"], "reward {:.3f}")):
        if value is not None:
            words.append(form.format(value))
    return Text("  ".join([*words, clock(status["seconds"])]))


def pool_table(pools: dict[str, dict[str, Any]]) -> Table:
    """A line per pool."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # fits 80 columns
    table.add_column("pool", no_wrap=True)
    for column in ("wanted", "ready", "busy"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("busy share", no_wrap=True)
    for column in ("in\nflight", "waiting", "restarts", "limits"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, pool in pools.items():
        table.add_row(
            name,
            str(pool["wanted"]),
            Text(str(pool["ready"]), style="yellow" if pool["ready"] < pool["wanted"] else ""),
            str(pool["busy"]),
            share(pool["busy_share"]),
            str(pool["in_flight"]),
            str(pool["waiting"]),
            Text(str(pool["restarts"]), style="yellow" if pool["restarts"] else ""),
            limits(pool),
        )
    return table


def starting(pools: dict[str, dict[str, Any]]) -> list[Text]:
    """A line per pool with workers that are not ready: loading their models, or without room on the cluster."""
    return [
        Text(f"{name}: {pool['wanted'] - pool['ready']} starting for {clock(pool['starting_s'])}", style="yellow")
        for name, pool in pools.items()
        if pool.get("starting_s") is not None
    ]


def share(value: float) -> Text:
    """A share of 1 as a bar with its percentage."""
    full = round(BAR_WIDTH * min(1.0, value))
    return Text.assemble(("━" * full, "cyan"), ("┄" * (BAR_WIDTH - full), "bright_black"), f" {value:.0%}")


def limits(pool: dict[str, Any]) -> str:
    """The sizes that a pool may have."""
    if not pool["elastic"]:
        return "fixed"
    return f"{pool['min']}+" if pool["max"] is None else f"{pool['min']}–{pool['max']}"


def troubles(status: dict[str, Any]) -> Text:
    """What failed and was done again, what was left out, what is in the object store."""
    retries = ", ".join(f"{count} {cause.replace('_', ' ')}" for cause, count in status["retries"].items() if count)
    text = Text(f"retries: {retries or 'none'}  quarantined: {status['quarantined']}  ")
    text.append(f"payloads: {status['bytes_in_flight'] / 1e6:.1f} MB")
    if status["admission_paused"]:
        text.append("  admission paused", style="yellow")
    return text


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
