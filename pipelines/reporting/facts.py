"""The report's facts in words: what the run is, what must be known before its figures, where it ran, what happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from pipelines.monitoring.signs import SIGNS
from pipelines.run_folder.event import Event, Line
from pipelines.run_folder.events import RecipeChanged, RunFailed, Started
from pipelines.run_folder.records import StepRecord
from pipelines.run_folder.roster import device_words

Record = dict[str, Any]
E = TypeVar("E", bound=Event)
MOST_EVENTS = 200
STATUS_WORDS = {"running": "running", "done": "done", "stopped": "stopped early", "failed": "failed"}


def header(metrics: Sequence[StepRecord], summary: Record, state: Record, recipe: Record) -> list[tuple[str, str]]:
    """The facts beside the title: (name, value)."""
    steps, done = recipe.get("loop", {}).get("steps"), metrics[-1].step if metrics else 0
    digest = summary.get("digest") or (metrics[-1].digest if metrics else None)
    started = state.get("started")
    facts = [
        ("started", time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if started else None),
        ("steps", f"{done:,} of {steps:,}" if steps else f"{done:,}"),
        ("time", duration(seconds_of(summary, state))),
        ("model", recipe.get("policy", {}).get("model")),
        ("reward", ", ".join(map(_reward_words, _tables(recipe.get("reward", {}))))),
        ("seed", str(recipe.get("run", {}).get("seed", "")) or None),
        ("digest", digest if done else None),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _tables(found: Record | list[Record]) -> list[Record]:
    return found if isinstance(found, list) else [found]


def _reward_words(table: Record) -> str:
    return " · ".join(table[key] for key in ("name", "type", "model") if table.get(key))


def notes(
    summary: Record, state: Record, recipe: Record, metrics: Sequence[StepRecord], events: Sequence[Line]
) -> list[str]:
    """What a reader must know before the figures."""
    found = list(summary.get("notes") or recipe.get("run", {}).get("notes") or [])
    steps, done = recipe.get("loop", {}).get("steps"), metrics[-1].step if metrics else 0
    if state.get("status") == "stopped" and not done:
        found.insert(0, "This run was stopped before its first step was done. Begin it with --resume.")
    elif state.get("status") in ("stopped", "failed"):
        causes = [found.message for found in of_kind(RunFailed, events)]
        cause = f" {causes[-1]}." if causes and state["status"] == "failed" else ""
        remedy = " Go on with --resume." if state["status"] == "stopped" else ""
        found.insert(
            0, f"This run {STATUS_WORDS[state['status']]}, after {done} of {steps or '?'} steps.{cause}{remedy}"
        )
    for sign in SIGNS:
        found += [f"Warning: {event.message}." for event in of_kind(sign.event, events)][-1:]
    if recipe.get("loop", {}).get("order") == "ready":
        found.append(
            'Not reproducible: loop.order is "ready", so that which version drew a group depends on timing. Run with'
            ' loop.order = "strict" for a result that can be repeated to the bit.'
        )
    return found + [
        f"After step {step} the recipe changed: {', '.join(f'{path} {old} → {new}' for path, (old, new) in change.items())}."
        for step, change in changes(events).items()
    ]


def of_kind(kind: type[E], events: Sequence[Line]) -> list[E]:
    """The events of a kind, in the order of writing."""
    return [line.event for line in events if isinstance(line.event, kind)]


def changes(events: Sequence[Line]) -> dict[int, dict[str, tuple[Any, Any]]]:
    """What resumes changed of the recipe: step -> key path -> (old, new)."""
    return {event.step: event.changed for event in of_kind(RecipeChanged, events)}


def starts(events: Sequence[Line]) -> list[list[tuple[str, str]]]:
    """Of each start, the latest first: what was run, where and with what, as (name, value)."""
    return [_start(line.event, line.time) for line in reversed(events) if isinstance(line.event, Started)]


def _start(event: Started, at: float | None) -> list[tuple[str, str]]:
    facts = [
        ("started", at and time.strftime("%Y-%m-%d %H:%M", time.localtime(at))),
        ("command", event.command),
        ("host", f"{event.host}, {event.machine}"),
        ("devices", " · ".join(f"{pool}: {device_words(said)}" for pool, said in event.workers.items())),
        ("git revision", event.git_revision),
        ("versions", " · ".join(f"{name} {version}" for name, version in event.versions.items())),
    ]
    return [(name, value) for name, value in facts if value]


def what_happened(events: Sequence[Line], started: float | None) -> Record | None:
    """What happened besides training: how often, and the latest ones with their fields."""
    if not events:
        return None
    rows = []
    for event in events[-MOST_EVENTS:]:
        fields = ", ".join(f"{key} {value}" for key, value in event.fields.items())
        after = duration(event.time - started) if started and event.time else ""
        rows.append((after, event.kind, fields))
    counts = Counter(event.kind for event in events)
    return {"counts": counts.most_common(), "rows": rows, "left_out": len(events) - len(rows)}


def seconds_of(summary: Record, state: Record) -> float:
    """How long the run took, or has taken so far."""
    return summary.get("seconds") or max(0.0, state.get("changed", 0.0) - state.get("started", 0.0))


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 4 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    return f"{minutes} min {second:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
