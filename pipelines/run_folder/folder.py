"""The run folder: what a run leaves behind, written so that a run which is killed leaves a folder that can be read.

Files are appended line by line (*.jsonl) or replaced as a whole (*.json). No torch and no Ray: the report and later
tools read a folder anywhere.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.recipe.errors import UserError
from pipelines.run_folder.event import Event, Line, read_line
from pipelines.run_folder.events import KINDS, Mended
from pipelines.run_folder.grids import draw_grid
from pipelines.run_folder.json_files import (
    Damaged,
    Record,
    mend_lines,
    mend_whole,
    read_json,
    read_lines,
    read_toml,
    replace,
    to_json,
    write_json,
)
from pipelines.run_folder.records import HeldoutRecord, StepRecord, Tag, read_records

__all__ = ["EVENTS", "HELDOUT", "METRICS", "RECIPE", "STATUS", "SUMMARY", "Record", "RunFolder"]

RECIPE, METRICS, HELDOUT, EVENTS = "recipe.toml", "metrics.jsonl", "heldout.jsonl", "events.jsonl"
STATUS, SUMMARY, TOKENS, WORKERS = "status.json", "summary.json", "tokens.json", "workers.json"
SCORES, INPUTS = "scores.json", "inputs.json"
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
        replace(path / RECIPE, recipe_toml.encode())
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
            raise UserError(
                f"--out {shown} already holds a run (status: {cls(path).status()})."
                f" Continue it with --resume, give another --out, or delete the folder"
            )

    @classmethod
    def open(cls, path: Path, shown: str = "") -> RunFolder:
        """Read a folder that holds a run, perhaps while it goes on. Raises UserError if `path`, `shown` to the user, holds no run."""
        if not cls.holds_run(path):
            raise UserError(f"{shown or path} holds no run: it has no {RECIPE}. Give the folder that --out named")
        return cls(path)

    def metric(self, record: StepRecord) -> None:
        """Add a trained step's record to metrics.jsonl."""
        self._append(METRICS, record.line())

    def event(self, event: Event) -> None:
        """Add what happened to events.jsonl, with the time that it is now."""
        self._append(EVENTS, event.line())

    def heldout(self, record: HeldoutRecord) -> None:
        """Add a held-out evaluation to heldout.jsonl."""
        self._append(HELDOUT, record.line())

    def records(self) -> dict[str, bytes]:
        """The records of steps and evaluations so far, by file name: what a checkpoint carries so that `restore` can go back to it."""
        paths = [self.path / name for name in RECORDS]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    def restore(self, records: Mapping[str, bytes]) -> None:
        """Makes the folder go on from `records`: what came later is dropped, events stay."""
        for name in RECORDS:
            replace(self.path / name, records.get(name, b""))

    def mend(self) -> list[str]:
        """Makes damaged files (a power cut, half a line) such that a run can go on from them; says what it did, and adds events.

        Each is kept as NAME.damaged. Records keep the lines that can be read, of which `restore` goes back to a checkpoint's; what
        else is damaged is left out, since a run writes it anew.
        """
        readers = {
            RECIPE: self.read_recipe,
            STATUS: self.read_state,
            SUMMARY: self.read_summary,
            TOKENS: self.read_tokens,
            SCORES: self.read_scores,
            INPUTS: self.read_inputs,
        }
        mended = [mend_lines(self.path / name) for name in (EVENTS, *RECORDS)]
        mended += [mend_whole(self.path / name, read) for name, read in readers.items()]
        for text in filter(None, mended):
            self.event(Mended(message=text))
        return [text for text in mended if text]

    def begin_heldout(self, earlier: str) -> None:
        """Held-out evaluations begin anew; those so far, which do not compare with what follows, are kept as the file `earlier`."""
        (self.path / HELDOUT).replace(self.path / earlier)
        replace(self.path / HELDOUT, b"")

    def retag_heldout(self, old: Tag, new: Tag) -> None:
        """Held-out evaluations with the tag `old` get the tag `new`."""
        records = [
            record.model_copy(update={"tag": new}) if record.tag == old else record for record in self.read_heldout()
        ]
        replace(self.path / HELDOUT, "".join(to_json(record.line()) + "\n" for record in records).encode())

    def follow(self, recipe_toml: str) -> str:
        """Makes this the run's recipe. Returns the name under which the earlier one is kept, empty if it is the same."""
        earlier = self.read_recipe()
        if earlier == recipe_toml:
            return ""
        name = f"recipe-{len(list(self.path.glob('recipe-*.toml'))) + 1}.toml"
        replace(self.path / name, earlier.encode())
        replace(self.path / RECIPE, recipe_toml.encode())
        return name

    def tokens(self, records: Sequence[Record]) -> None:
        """Write tokens.json: per-token log-probs of the groups that the report shows."""
        write_json(self.path / TOKENS, list(records))

    def scores(self, record: Record) -> None:
        """Write scores.json: the rows that the report of `score` shows."""
        write_json(self.path / SCORES, record)

    def inputs(self, record: Record) -> None:
        """Write inputs.json: what a run that goes on must find as it was."""
        write_json(self.path / INPUTS, record)

    def workers(self, said: Mapping[str, Record]) -> None:
        """Write workers.json: what each worker of the latest start reported, by name."""
        write_json(self.path / WORKERS, dict(said))

    def summary(self, record: Record) -> None:
        """Write summary.json."""
        write_json(self.path / SUMMARY, record)

    def state(self, status: str, message: str = "") -> None:
        """Write status.json: "running", "done", "stopped" or "failed", with the Unix times of start and change, and what more is to say."""
        now = round(time.time(), 3)
        started = self.read_state().get("started", now)
        state = {"status": status, "started": started, "changed": now, "pid": os.getpid()}
        write_json(self.path / STATUS, state | ({"message": message} if message else {}))

    def grid_path(self, name: str) -> Path:
        """Where `save_grid` puts a grid."""
        return self.path / "samples" / f"{name}.png"

    def save_grid(self, name: str, rows: Sequence[tuple[str, np.ndarray]]) -> Path:
        """Write samples/`name`.png: per row a caption and its images, uint8 [K, H, W, C]. Returns the path."""
        path = self.grid_path(name)
        image, text = draw_grid(rows)
        path.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        image.save(content, format="PNG", pnginfo=text)
        replace(path, content.getvalue())
        return path

    def read_metrics(self) -> list[StepRecord]:
        """The records of the trained steps, in the order of writing."""
        return read_records(self.path / METRICS, StepRecord)

    def read_events(self) -> list[Line]:
        """The events, in the order of writing."""
        return [read_line(line, KINDS) for line in read_lines(self.path / EVENTS)]

    def read_heldout(self) -> list[HeldoutRecord]:
        """The held-out evaluations, in the order of writing."""
        return read_records(self.path / HELDOUT, HeldoutRecord)

    def read_tokens(self) -> list[Record]:
        """The groups with per-token log-probs; empty if the run has not written any yet."""
        return read_json(self.path / TOKENS, list) or []

    def read_scores(self) -> Record:
        """What the report of `score` shows; empty for a run of another program, or one that ended before it was written."""
        return read_json(self.path / SCORES, dict) or {}

    def read_inputs(self) -> Record:
        """The inputs of a run that trains nothing; empty for another program, or a run that ended before they were written."""
        return read_json(self.path / INPUTS, dict) or {}

    def read_summary(self) -> Record:
        """The summary; empty if the run has not written any yet."""
        return read_json(self.path / SUMMARY, dict) or {}

    def read_state(self) -> Record:
        """The status record; empty for a folder without one."""
        return read_json(self.path / STATUS, dict) or {}

    def status(self) -> str:
        """How the run ended, as far as that can be known."""
        try:
            return str(self.read_state().get("status", "unknown"))
        except Damaged:
            return "unknown"

    def read_recipe(self) -> str:
        """The resolved recipe, TOML."""
        return read_toml(self.path / RECIPE)

    def _append(self, name: str, record: Record) -> None:
        # One write of one line: a reader beside the run sees whole lines.
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")
