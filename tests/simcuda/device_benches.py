"""The commands that are to be run on a GPU, at their smallest on the device: each to its last line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import gpu, hardware, learner, reward, rollout, zero
from bench.full_size import IMAGE_MODELS
from bench.gpu_case import FAMILIES, Case

# where captions are padded it sends their length in each forward
WAITS_OF_DIFFUSERS = {"qwen-image": "at diffusers/models/transformers/transformer_qwenimage.py"}
TINY = ["--tiny", "--device", "cuda", "--repeats", "1"]


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hardware.PEAK_SIZES, "cuda", (64,))
    monkeypatch.setitem(hardware.PEAK_ROUNDS, "cuda", 1)


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_drawing_waits_for_nothing_in_its_loop(family: str, tmp_path: Path):
    rollout.main(["--family", family, "--guidance", "4", *TINY, "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"rollout_{family}.json").read_text())
    assert WAITS_OF_DIFFUSERS.get(family, "no") in result["waits"]
    assert result["dtype"] == "bfloat16"


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_training_runs_with_its_anchor(family: str, tmp_path: Path):
    learner.main(["--family", family, "--kl", "0.01", "--micro-batch", "1", *TINY, "--out", str(tmp_path)])
    assert len(json.loads((tmp_path / f"learner_{family}.json").read_text())["rows"]) == 2


def test_ranks_are_timed_beside_plain_torch(tmp_path: Path):
    zero.main(["--quick", "--device", "cuda", "--stages", "3", "--updates", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "zero.json").read_text())["rows"]
    assert [(row["stage"], row["ranks"]) for row in rows] == [(0, 1), (3, 1)]
    assert all(seconds > 0 for row in rows for seconds in row["seconds"])


def test_the_likelihood_agrees_with_the_obvious_way():
    case = replace(reward.speed_cases(quick=True)[0], group=2)
    assert reward.measure_speed(case, reward.JUDGE, "cuda", repeats=1)["ratio"] > 0


@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part_of_the_first_ten_minutes_finds_all_that_it_looks_for(part: str, tmp_path: Path):
    family = list(FAMILIES)[list(gpu.PARTS).index(part) % len(FAMILIES)]
    gpu.run_part(part, Case(family, "qwen3-vl-8b", "cuda", tiny=True), tmp_path / "part.json")
    found = json.loads((tmp_path / "part.json").read_text())
    assert found
    assert "error" not in found
    wrong = [
        what
        for what, figures in found.items()
        for name, value in figures.items()
        if "same" in name and value is not True
    ]
    assert not wrong, found
