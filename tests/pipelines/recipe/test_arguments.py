"""The command line of pipelines.train: which run is meant, and where a recipe may have gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.recipe.arguments import AUTO, parse_train


def test_a_resume_takes_a_checkpoint_or_the_newest_one_of_a_run() -> None:
    assert parse_train(["r.toml"]).resume is None
    assert parse_train(["r.toml", "--out", "run", "--resume"]).resume == AUTO
    assert parse_train(["r.toml", "--resume", "run/checkpoints/step-000050"]).out is None


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_train(["~/r.toml"]).recipe == Path("/home/me/r.toml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["r.toml", "--resume"], "--resume: which run? Name its folder with --out"),
        (["--resume", "r.toml", "--out", "run"], "put the recipe first, as in r.toml --out PLACE --resume"),
        (["--out", "run", "--resume"], "the recipe is missing"),
        ([], "the recipe is missing: give a TOML file"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_what_to_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_train(arguments)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
