"""The run folder: what a run leaves behind, written so that a run which is killed leaves a folder that can be read.

Files are appended line by line (*.jsonl) or replaced as a whole (*.json). No torch and no Ray: the report and later
tools read a folder anywhere.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import UserError
from pipelines.grids import draw_grid

Record = dict[str, Any]
RECIPE, METRICS, HELDOUT = "recipe.toml", "metrics.jsonl", "heldout.jsonl"
RECORDS = (METRICS, HELDOUT)


class RunFolder:
    """One run's folder. `create` begins one, `open` takes one up to read it, or after `restore` to go on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe_toml: str) -> RunFolder:
        """Begin a run in `path`, which is made if it is missing; `recipe_toml` is the resolved recipe.

        Raises UserError if `path` already holds a run, or is a file.
        """
        cls.check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        _replace(path / RECIPE, recipe_toml)
        folder.state("running")
        return folder

    @staticmethod
    def holds_run(path: Path) -> bool:
        """Whether a run was begun in `path`."""
        return os.path.isfile(path / RECIPE)  # not Path's, which raises for a name that is too long

    @classmethod
    def check_new(cls, path: Path, shown: str = "") -> None:
        """Raise UserError unless a run can begin in `path`, which is `shown` to the user."""
        shown = shown or str(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {shown} is a file; give a folder")
        if cls.holds_run(path):
            state = read_json(path / "status.json") or {}
            raise UserError(
                f"--out {shown} already holds a run (status: {state.get('status', 'unknown')})."
                f" Continue it with --resume, give another --out, or delete the folder"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read a folder that holds a run, perhaps while it goes on. Raises UserError if `path` holds no run."""
        if not cls.holds_run(path):
            raise UserError(f"{path} holds no run: it has no {RECIPE}. Give the folder that --out named")
        return cls(path)

    def metric(self, record: Record) -> None:
        """Add a trained step's record to metrics.jsonl."""
        self._append(METRICS, record)

    def event(self, kind: str, **fields: Any) -> None:
        """Add an event (a retry, a restart, a quarantine, a pool's new size) with its Unix time to events.jsonl."""
        self._append("events.jsonl", {"time": round(time.time(), 3), "kind": kind, **fields})

    def heldout(self, record: Record) -> None:
        """Add a held-out evaluation to heldout.jsonl."""
        self._append(HELDOUT, record)

    def records(self) -> dict[str, bytes]:
        """The records of steps and evaluations so far, by file name: what a checkpoint carries so that `restore` can go back to it."""
        paths = [self.path / name for name in RECORDS]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    def restore(self, records: Mapping[str, bytes]) -> None:
        """Makes the folder go on from `records`: what came later is dropped, events stay (but for a line that was cut)."""
        _drop_cut_line(self.path / "events.jsonl")
        for name in RECORDS:
            _replace(self.path / name, records.get(name, b"").decode())

    def begin_heldout(self, earlier: str) -> None:
        """Held-out evaluations begin anew; those so far, which do not compare with what follows, are kept as the file `earlier`."""
        (self.path / HELDOUT).replace(self.path / earlier)
        _replace(self.path / HELDOUT, "")

    def retag_heldout(self, old: str, new: str) -> None:
        """Held-out evaluations with the tag `old` get the tag `new`."""
        records = [record | {"tag": new if record["tag"] == old else record["tag"]} for record in self.read_heldout()]
        _replace(self.path / HELDOUT, "".join(to_json(record) + "\n" for record in records))

    def follow(self, recipe_toml: str) -> str:
        """Makes this the run's recipe. Returns the name under which the earlier one is kept, empty if it is the same."""
        earlier = self.read_recipe()
        if earlier == recipe_toml:
            return ""
        name = f"recipe-{len(list(self.path.glob('recipe-*.toml'))) + 1}.toml"
        _replace(self.path / name, earlier)
        _replace(self.path / RECIPE, recipe_toml)
        return name

    def tokens(self, records: Sequence[Record]) -> None:
        """Write tokens.json: per-token log-probs of the groups that the report shows."""
        write_json(self.path / "tokens.json", list(records))

    def summary(self, record: Record) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", record)

    def state(self, status: str) -> None:
        """Write status.json: "running", "done", "stopped" or "failed", with the Unix times of start and change."""
        now = round(time.time(), 3)
        started = (read_json(self.path / "status.json") or {}).get("started", now)
        write_json(
            self.path / "status.json", {"status": status, "started": started, "changed": now, "pid": os.getpid()}
        )

    def grid_path(self, name: str) -> Path:
        """Where `save_grid` puts a grid."""
        return self.path / "samples" / f"{name}.png"

    def save_grid(self, name: str, rows: Sequence[tuple[str, np.ndarray]]) -> Path:
        """Write samples/`name`.png: per row a caption and its images, uint8 [K, H, W, C]. Returns the path."""
        path = self.grid_path(name)
        image, text = draw_grid(rows)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".png.tmp")
        image.save(temporary, format="PNG", pnginfo=text)
        temporary.replace(path)
        return path

    def read_metrics(self) -> list[Record]:
        """The records of the trained steps, in the order of writing."""
        return read_lines(self.path / METRICS)

    def read_events(self) -> list[Record]:
        """The events, in the order of writing."""
        return read_lines(self.path / "events.jsonl")

    def read_heldout(self) -> list[Record]:
        """The held-out evaluations, in the order of writing."""
        return read_lines(self.path / HELDOUT)

    def read_tokens(self) -> list[Record]:
        """The groups with per-token log-probs; empty if the run did not come so far."""
        return read_json(self.path / "tokens.json") or []

    def read_summary(self) -> Record:
        """The summary; empty if the run did not come so far."""
        return read_json(self.path / "summary.json") or {}

    def read_state(self) -> Record:
        """The status record; empty for a folder without one."""
        return read_json(self.path / "status.json") or {}

    def read_recipe(self) -> str:
        """The resolved recipe, TOML."""
        return (self.path / RECIPE).read_text(encoding="utf-8")

    def _append(self, name: str, record: Record) -> None:
        # One write of one line: a reader beside the run sees whole lines.
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any parser reads: numpy becomes plain, and NaN and infinities become null."""
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, indent=indent)


def read_lines(path: Path) -> list[Record]:
    """The records of a .jsonl file; a last line that was cut is left out, a missing file is empty.

    Raises UserError for a line inside the file that is not JSON: that is damage, not an interrupted write.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    complete = lines[:-1]  # what follows the last newline is empty, or a line that was cut
    try:
        return [json.loads(line) for line in complete if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}. Restore it, or move it away to read the rest") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None if it is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    _replace(path, to_json(value, indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _drop_cut_line(path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
