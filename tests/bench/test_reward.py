"""The benchmark of the reward at its smallest: both ways agree, and every figure is there."""

from pathlib import Path

import pytest
import torch

from bench.reward import WAYS, Case, measure_memory, measure_speed, memory_table, speed_table

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


def test_speed_and_memory_of_both_ways_make_a_row(folder: Path):
    row = {**vars(CASE), **measure_speed(CASE, folder, "cpu", 1), "peak_mb": measure_memory(CASE, folder, "cpu")}
    assert row["difference"] < 1e-4
    assert row["images_per_s"].keys() == row["peak_mb"].keys() == WAYS.keys()
    assert all(row["images_per_s"][way] > 0 and row["peak_mb"][way] >= 0 for way in WAYS)
    assert speed_table([row]).row_count == memory_table([{**row, "group_logits_mb": 0}]).row_count == 1
