"""The benchmark of the reward at its smallest: both ways agree, and every figure is there."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench.full_size_judge import VLMS
from bench.reward import WAYS, Case, main, measure_speed, memory_table, speed_table

CASE = Case("tiny", 8, group=2, width=32, layers=1, image_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return CASE.folder(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_caption_has_as_many_tokens_as_the_case_says(folder: Path, way: str):
    scorer = WAYS[way](folder, "cpu")
    tokenizer = scorer.processor.tokenizer if way == "obvious" else scorer.reward.vlm.tokenizer
    assert len(tokenizer(CASE.caption).input_ids) == CASE.tokens


def test_the_speed_of_both_ways_makes_a_row(folder: Path):
    row = {**vars(CASE), **measure_speed(CASE, folder, "cpu", 1)}
    assert row["difference"] < 1e-4
    assert all(row["images_per_s"][way] > 0 for way in WAYS)
    assert speed_table([row]).row_count == 1


def test_a_process_of_its_own_says_the_peak_of_a_way(folder: Path, capsys: pytest.CaptureFixture):
    peaks = {}
    for way in WAYS:
        main(["--memory-of", way, "--case", json.dumps(asdict(CASE)), "--folder", str(folder), "--device", "cpu"])
        peaks[way] = float(capsys.readouterr().out.splitlines()[-1])
    assert all(peak >= 0 for peak in peaks.values())
    assert memory_table([{**vars(CASE), "peak_mb": peaks}]).row_count == 1


@pytest.mark.parametrize("name", [*VLMS[:2], "folder"])
def test_both_ways_of_one_model_score_the_same(name: str, folder: Path, tmp_path: Path):
    model = str(folder) if name == "folder" else name
    main(["--model", model, "--tiny", "--device", "cpu", "--repeats", "1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"reward_{Path(model).name}.json").read_text())
    assert result["difference"] < 1e-4
    assert result["tflop_per_image"] > 0
    assert all(result["seconds"][way] > 0 for way in WAYS)
