"""Events: what is written of each kind, and what is read of lines that nobody here wrote."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

import pipelines
from pipelines.run_folder.event import Event, Line, read_line
from pipelines.run_folder.events import KINDS, Scaled
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.json_files import to_json

VALUES = {int: 3, str: "words", float: 0.5}


def some(kind: Any) -> Any:
    """A value of a type."""
    if kind in VALUES:
        return VALUES[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        return {"a": some(inner[1])} if inner and inner[1] in VALUES else {}
    if origin is list:
        return [some(inner[0])]
    return None if type(None) in inner else inner[0]


def example(kind: type[Event]) -> Event:
    return kind.model_validate({name: some(field.annotation) for name, field in kind.model_fields.items()})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_event_is_read_as_it_was_written(kind: type[Event]) -> None:
    before = time.time()
    line = read_line(json.loads(to_json(example(kind).line())), KINDS)
    assert line.event == example(kind)
    assert line.kind == kind.kind
    assert line.time == pytest.approx(before, abs=60)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_event_and_field_has_its_sentence(kind: type[Event]) -> None:
    assert kind.__doc__ != Event.__doc__
    assert all(field.description for field in kind.model_fields.values())


def test_every_event_is_written_somewhere() -> None:
    text = "".join(
        path.read_text()
        for path in Path(pipelines.__file__).parent.rglob("*.py")
        if path.name not in ("event.py", "events.py")
    )
    assert [one.__name__ for one in KINDS.values() if not re.search(rf"\b{one.__name__}\b", text)] == []


def test_a_pool_was_scaled_from_a_size_to_another() -> None:
    written = Scaled(pool="reward", by="command", from_=1, to=3).line()
    assert (written["kind"], written["from"], written["to"]) == ("scaled", 1, 3)


def test_lines_of_another_version_are_read_with_what_they_say(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    lines = ['{"time": 1.0, "kind": "of_tomorrow", "a": 2}', '{"time": 2.0, "kind": "scaled", "pool": "reward"}', "{}"]
    (folder.path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert folder.read_events() == [
        Line(1.0, "of_tomorrow", {"a": 2}, None),
        Line(2.0, "scaled", {"pool": "reward"}, None),
        Line(None, "", {}, None),
    ]
