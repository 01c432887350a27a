"""Sample grids, drawn and compressed in a thread beside the loop: half a second for thirty images of a megapixel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipelines.run_folder.folder import RunFolder


class Pictures:
    """Writes a run's grids one after another."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        self._begun: list[Future[Path]] = []

    def draw(self, name: str, rows: Sequence[tuple[str, np.ndarray]]) -> Path:
        """Begins samples/`name`.png (see `RunFolder.save_grid`) and returns its path. Raises what an earlier one met."""
        self._check([future for future in self._begun if future.done()])
        self._begun.append(self._thread.submit(self.folder.save_grid, name, rows))
        return self.folder.grid_path(name)

    def finish(self) -> None:
        """Returns when all are written. Raises OSError if one could not be."""
        self._check(list(self._begun))

    def _check(self, ended: list[Future[Path]]) -> None:
        for future in ended:
            self._begun.remove(future)
            future.result()
