"""The program for the first ten minutes on a GPU: what it needs, and what is left when a part is cut short."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu
from bench.gpu_case import FAMILIES, GIB, Case, Expected

WITHOUT = """
import sys
from importlib import import_module
from importlib.machinery import PathFinder
found = PathFinder.find_spec
for hidden, modules in {asked!r}:
    hide = lambda cls, name, *rest: None if name.partition(".")[0] in hidden else found(name, *rest)
    PathFinder.find_spec = classmethod(hide)
    for module in modules:
        import_module(module)
    assert not set(hidden) & sys.modules.keys()
"""
EVERYWHERE = ("ray", "deepspeed", "tests")
JUDGES = ("bench.gpu", "bench.gpu_score")
IMAGES = ("bench.gpu_environment", "bench.gpu_draw", "bench.gpu_update", "bench.gpu_encode", "bench.gpu_ranks")


def test_it_is_there_without_what_a_gpu_machine_may_lack():
    """The judges' part without diffusers and peft as well, which are there again for the parts that draw."""
    program = WITHOUT.format(asked=[((*EVERYWHERE, "diffusers", "peft"), JUDGES), (EVERYWHERE, IMAGES)])
    done = subprocess.run([sys.executable, "-c", program], cwd=gpu.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_part_that_is_cut_short_leaves_what_it_found(tmp_path: Path):
    case = Case("sd3.5-medium", "qwen3-vl-8b", "cpu", tiny=True)
    (tmp_path / "environment_tiny.json").write_text('{"of": "another run"}')
    found = gpu.start_part("environment", case, 0.0, tmp_path)
    assert found["ended"].startswith("cut short")
    assert "of" not in found


def test_without_a_gpu_it_says_so_and_goes_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--out", str(tmp_path), "--parts", "environment", "score"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "sees no GPU" in found["environment"]["error"]
    assert found["environment"]["packages"]["torch"]
    assert "score" not in found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_measured_stands_beside_what_doctor_and_plan_say(family: str):
    case = Case(family, "qwen3-vl-8b", "cuda", tiny=False)
    size = case.size
    expected = Expected(case, size.pixels, size.images, 256, peak=1e15)
    drawing = expected.memory("rollout", "drawing", 10 * GIB)
    assert drawing["of_doctor"] == pytest.approx(10 / drawing["doctor_gib"])
    seconds = expected.speed("draw", 2.0)
    assert seconds["share_of_peak"] == pytest.approx(seconds["tflop"] / 2e3)
    assert 0 < seconds["assumed_share"] < 1
