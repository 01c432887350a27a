"""The tables of bench.loop: how busy workers were kept, and what the driver cost."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def utilisation_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A line per scenario, with strict order's share of ready order's speed where both were run."""
    speed = {_without_order(row): row["images_per_s"] for row in rows if row["order"] == "ready"}
    columns = ("limit", "workers", "groups\na draw", "noise", "S", "order", "busy %:\nrollout/\nreward/\npolicy", "of\nbound", "images\n/s",
               "strict\n/ready")  # fmt: skip
    table = Table(*columns, title=title)
    for row in rows:
        ready = speed.get(_without_order(row))
        ratio = f"{row['images_per_s'] / ready:.3f}" if ready and row["order"] == "strict" else ""
        busy = "/".join(f"{100 * row['busy'][pool]:.0f}" for pool in ("rollout", "reward", "policy"))
        noise = f"x{row['straggling']:.0f}" if row["straggling"] else "none"
        workers = f"{row['rollouts']}+{row['rewards']}"
        table.add_row(row["limit"], workers, str(row["together"]), noise, str(row["staleness"]), row["order"], busy,
                      f"[bold]{row['of_bound']:.3f}[/]", f"{row['images_per_s']:.1f}", ratio)  # fmt: skip
    return table


def driver_table(rows: list[dict[str, Any]]) -> Table:
    """What the driver costs: CPU time of its thread, and of its whole process with Ray's threads; memory."""
    columns = ("on", "workers", "order", "groups", "driver ms\n/group\np50", "\n\np99", "process\nms/group", "MB at\na fifth",
               "MB at\nthe end")  # fmt: skip
    table = Table(*columns, title="The driver")
    for row in rows:
        figures = (row[key] for key in ("driver_ms_p50", "driver_ms_p99", "cpu_ms_per_group"))
        table.add_row(
            "virtual" if row["virtual"] else "Ray", f"{row['rollouts']}+{row['rewards']}", row["order"], str(row["groups"]),
            *(f"{figure:.2f}" for figure in figures), f"{row['memory_mb_early']:.0f}", f"{row['memory_mb_end']:.0f}",
        )  # fmt: skip
    return table


def _without_order(row: dict[str, Any]) -> tuple:
    return tuple(row[key] for key in ("limit", "rollouts", "rewards", "together", "straggling", "staleness"))
