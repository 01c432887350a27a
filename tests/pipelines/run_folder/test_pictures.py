"""Grids drawn beside the loop: all are there in the end, and a disk that is full is not passed over."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.grids import read_grid
from pipelines.run_folder.pictures import Pictures

ROWS = [("a red circle", np.full((2, 8, 8, 3), 200, np.uint8))]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", "[run]\n")


def test_all_grids_are_there_when_it_is_finished(folder):
    pictures = Pictures(folder)
    paths = [pictures.draw(f"during-{step:06d}", ROWS) for step in range(5)]
    pictures.finish()
    for path in paths:
        [row] = read_grid(path)
        assert row.caption == "a red circle"
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in row.images]), ROWS[0][1])


def draw_for_long(pictures: Pictures) -> None:
    """Surely until the thread is past what it had to do before."""
    for again in range(10_000):
        pictures.draw(f"after-{again}", ROWS)


def test_a_grid_that_cannot_be_written_is_an_error_at_the_end_or_at_the_next(folder):
    (folder.path / "samples").write_text("a file where the folder should be")
    pictures = Pictures(folder)
    pictures.draw("before", ROWS)
    with pytest.raises(OSError, match="samples"):
        pictures.finish()
    pictures.finish()  # said once
    first = pictures.draw("during", ROWS)
    with pytest.raises(OSError, match="samples"):
        draw_for_long(pictures)
    assert not first.exists()
