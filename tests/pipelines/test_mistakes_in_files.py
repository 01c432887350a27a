"""Prompt files and recipes with a fault: every program that reads them answers with exit code 2 and the same sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import doctor, plan, submit, train
from tests.support import files

Program = Callable[[list[str]], int]

FAULTY_PROMPTS = {**dict.fromkeys(files.REFUSED, ", line 1: "), "no_words.jsonl": "'b'"}


def end(program: Program, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = program(words)
    return code, capsys.readouterr().err


@pytest.fixture
def launched(tmp_path: Path) -> list[tuple[Program, list[str]]]:
    """The programs that read recipes, each with what it needs beside one."""
    return [
        (train.main, ["--executor", "local", "--out", str(tmp_path / "run")]),
        (doctor.main, []),
        (plan.main, []),
        (submit.main, ["--out", "/data/run"]),
    ]


@pytest.mark.parametrize("name", FAULTY_PROMPTS)
@pytest.mark.parametrize("key", ["data.train", "data.heldout"])
def test_prompts_are_refused_alike_before_any_worker_starts(
    tiny_world: Path, tmp_path: Path, launched: list, capsys: pytest.CaptureFixture[str], name: str, key: str
) -> None:
    setting = ["--set", f"{key}={files.write(tmp_path, name)}"]
    ends = [end(program, [str(tiny_world), *setting, *words], capsys) for program, words in launched[:2]]
    assert {code for code, _ in ends} == {2}
    assert all(FAULTY_PROMPTS[name] in told and "Traceback" not in told for _, told in ends)
    assert len({told for _, told in ends}) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", files.REFUSED_RECIPES)
def test_recipes_are_refused_alike(
    tmp_path: Path, launched: list, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    recipe = str(files.write(tmp_path, name))
    ends = {end(program, [recipe, *words], capsys) for program, words in launched}
    ((code, told),) = ends
    assert code == 2
    assert "is not UTF-8, at byte" in told


@pytest.mark.parametrize(
    "setting", ["objective=awm", "policy.betas=[2.0,3.0]", "policy.learning_rate=inf", "data.mix=single=1"]
)
def test_settings_are_refused_alike(
    tiny_world: Path, launched: list, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    ends = {end(program, [str(tiny_world), *words, "--set", setting], capsys) for program, words in launched}
    ((code, told),) = ends
    assert code == 2
    assert " cannot be run:\n  " in told
