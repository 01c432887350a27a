"""A process of `score` that is killed, whatever it does: the next one scores no row that is on disk, and ends as if nothing was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.score_kills import MOMENTS
from tests.support.score_world import NotingReward, main_with, make_score_world


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "scores").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nothing happened to, `whole`, and one for each of the moments, by their numbers."""
    folder = tmp_path_factory.mktemp("world")
    recipe = make_score_world(folder)
    assert score(recipe, folder / "whole") == 0
    subprocess.run([sys.executable, "-m", "tests.support.score_kills", str(folder), str(recipe)], check=True)
    return folder


def score(recipe: Path, out: Path, *more: str) -> int:
    """The exit code; what is judged is added to a file beside the folder."""
    words = [str(recipe), "--out", str(out), "--executor", "local", *more]
    return main_with(NotingReward, log=out.with_suffix(".log"))(words)


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_row_is_scored_again_that_was_on_disk_when_the_run_was_killed(world: Path, moment: str) -> None:
    number = list(MOMENTS).index(moment)
    out, log = world / f"{number}", world / f"{number}.log"
    on_disk = {row["caption"] for row in rows_of(out) if row["reason"] is None}
    assert len(on_disk) >= MOMENTS[moment].kept
    log.unlink(missing_ok=True)
    assert score(world / "recipe.toml", out, "--resume") == 0
    judged = log.read_text().splitlines()
    assert on_disk.isdisjoint(judged)
    assert len(set(judged)) == len(judged)
    assert rows_of(out) == rows_of(world / "whole")
    digests = [json.loads((folder / "summary.json").read_text())["digest"] for folder in (out, world / "whole")]
    assert digests[0] == digests[1]
