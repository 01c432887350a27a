"""The watcher behind TensorBoard: scalars, sample grids and the recipe in the run folder, without TensorFlow and without a thread.

tensorboard --logdir RUN_FOLDER
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pipelines.monitoring.hparams import session_end, session_start
from pipelines.monitoring.metric_table import Source, scalars
from pipelines.monitoring.watchers import Watcher
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord, StepRecord

FLUSH_S = 10.0
SAMPLES = "samples"  # one tag, so that a slider goes through the steps
FILE_VERSION = "brain.Event:2"  # what a file of events begins with


class TensorBoard(Watcher):
    """Writes events. `step`: from where the run goes on; what an earlier start wrote of later steps is taken back. `recipe`: its tables.

    TensorBoard's own writers hand events to a thread through a short queue, and wait for ever once that thread died of a full
    disk; here each is written at once.
    """

    def __init__(self, folder: RunFolder, step: int, recipe: Mapping[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe
        self._seen = step  # a step that is replayed was shown already
        self._grids: list[tuple[int, Path]] = []  # announced, perhaps not yet drawn
        self._flush_at = 0.0

    def open(self) -> None:
        where = self.folder.path / "tensorboard"
        where.mkdir(exist_ok=True)
        now = time.time_ns()
        self._events = RecordWriter((where / f"events.out.tfevents.{now // 10**9}.{now}").open("wb"))
        self._events.write(Event(wall_time=now / 1e9, file_version=FILE_VERSION).SerializeToString())
        self._write(self._seen + 1, session_log=SessionLog(status=SessionLog.START))
        self._write(self._seen, summary=Summary(value=[session_start(self.recipe)]))

    def step(self, record: StepRecord) -> None:
        if record.step > self._seen:
            self._seen = record.step
            self._scalars("step", record)
        self._show_grids()

    def heldout(self, record: HeldoutRecord) -> None:
        self._scalars("heldout", record)
        name = f"{record.tag}-{record.step:06d}"
        grid = (record.step, self.folder.grid_path(name))
        if grid not in self._grids:  # there is a record for each guidance scale
            self._grids.append(grid)

    def close(self) -> None:
        self._show_grids()
        self._write(self._seen, summary=Summary(value=[session_end()]))
        self._events.close()

    def _scalars(self, source: Source, record: StepRecord | HeldoutRecord) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(source, record.line()).items()]
        self._write(record.step, summary=Summary(value=values))

    def _show_grids(self) -> None:
        """Adds the grids that are drawn by now; the file is copied as it is."""
        for grid in [grid for grid in self._grids if grid[1].is_file()]:
            self._grids.remove(grid)
            step, path = grid
            with Image.open(path) as picture:
                width, height = picture.size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
            self._write(step, summary=Summary(value=[Summary.Value(tag=SAMPLES, image=image)]))

    def _write(self, step: int, **what: Summary | SessionLog) -> None:
        now = time.time()
        self._events.write(Event(wall_time=now, step=step, **what).SerializeToString())
        if now >= self._flush_at:
            self._flush_at = now + FLUSH_S
            self._events.flush()
