"""`evaluate` under SIGKILL: the real process, killed again and again, goes on with what is not written yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.evaluate_world import JOURNAL, main, write_evaluate

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 120.0
SEEDS = ("--set", "heldout.guidance_scales=[1.0]", "--set", "heldout.seeds=[0, 1]")  # no two images are equal


def files_in(out: Path) -> list[Path]:
    return sorted((out / "judged").glob("*.parquet"))


def words(recipe: Path, out: Path) -> list[str]:
    return [str(recipe), "--out", str(out), "--executor", "local", *SEEDS]


def killed_at(recipe: Path, out: Path, journal: Path, files: int, judged: int) -> None:
    """Goes on with the run in a process of its own, which is killed once there are so many whole files and more is judged."""
    command = [sys.executable, "-m", "tests.support.evaluate_world", *words(recipe, out)]
    process = subprocess.Popen(
        [*command, "--resume", "--take-over"],
        cwd=ROOT,
        env={**os.environ, JOURNAL: str(journal)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + PATIENCE_S
    while len(files_in(out)) < files or len(lines_of(journal)) < judged:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.kill()
    process.wait()


def lines_of(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def test_a_process_that_is_killed_again_and_again_judges_nothing_twice_that_is_written(
    plain_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_evaluate(plain_world, tmp_path / "evaluate.toml", {})
    whole, out, journal = tmp_path / "whole", tmp_path / "out", tmp_path / "journal"
    monkeypatch.setenv(JOURNAL, str(tmp_path / "order"))
    assert main(words(recipe, whole)) == 0
    sheets = lines_of(tmp_path / "order")  # one process with one worker judges in order
    before: Counter[str] = Counter()
    written: set[str] = set()
    for files, more in ((0, 0), (0, 1), (1, 1), (3, 0)):
        killed_at(recipe, out, journal, files, len(lines_of(journal)) + more)
        judged = Counter(lines_of(journal))
        assert {sheet for sheet in written if judged[sheet] != before[sheet]} == set()
        rows = [row for path in files_in(out) for row in pq.read_table(path)["row"].to_pylist()]
        before, written = judged, {sheets[row // 2] for row in rows}
    assert 0 < len(written) < len(sheets)
    monkeypatch.setenv(JOURNAL, str(journal))
    assert main([*words(recipe, out), "--resume", "--take-over"]) == 0
    judged = Counter(lines_of(journal))
    assert {sheet for sheet in written if judged[sheet] != before[sheet]} == set()
    assert set(judged) == set(sheets)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (whole, out)]
    assert summaries[0]["digest"] == summaries[1]["digest"]
    assert summaries[0]["models"] == summaries[1]["models"]
