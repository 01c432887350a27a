"""The benchmark of prompt sets at its smallest: both ways read the same set, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.prompts import WAYS, main, tell, write_set
from pipelines.data.prompts import load_prompts


def test_a_set_has_so_many_different_captions_of_so_many_words(tmp_path: Path) -> None:
    write_set(tmp_path, 1000, 30, 100)
    prompts = load_prompts(str(tmp_path), "data.train")
    assert len({prompt.caption for prompt in prompts}) == 1000
    assert {len(prompt.caption.split()) for prompt in prompts} == {30}


@pytest.mark.parametrize("way", WAYS)
def test_a_process_tells_its_figures(tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, 1000, 3, 100)
    tell(way, tmp_path, 2)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["peak"] >= found["before"] > 0
    assert found["prompts_per_s"] == pytest.approx(128 / found["walk_s"])


def test_the_command_compares_both_ways(tmp_path: Path) -> None:
    main(["--quick", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "prompts.json").read_text())
    assert set(result["ways"]) == set(WAYS)
    assert result["bytes_on_disk"] > 20_000 * 50
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.json"]
