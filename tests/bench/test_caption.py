"""The benchmark of the writer at its smallest: both ways write the same, and every figure is there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import caption
from bench.caption import Case, main, measure, table_of

CASE = Case("tiny", 6, images=3, rows=2, width=32, layers=1, image_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return CASE.folder(tmp_path_factory.mktemp("models"))


def test_both_ways_write_the_same_and_make_a_row(folder: Path):
    row = {**vars(CASE), **measure(CASE, folder, "cpu", 1)}
    assert row["same_bytes"]
    assert all(row["tokens_per_s"][way] > 0 for way in caption.WAYS)
    assert table_of([row]).row_count == 1


def test_ways_that_write_other_texts_at_temperature_0_are_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caption.Own, "write", lambda *_: (["something else"], 2))
    with pytest.raises(RuntimeError, match="write other texts"):
        measure(CASE, folder, "cpu", 1)


def test_its_command_writes_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caption, "cases", lambda quick: [replace(CASE, model=str(folder), temperature=0.9)])
    main(["--quick", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path / "deep/X.json")])
    (row,) = json.loads((tmp_path / "deep/X.json").read_text())["rows"]
    assert row["temperature"] == 0.9
    assert row["ratio"] > 0
