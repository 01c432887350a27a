"""The last words of a run that was stopped: how to go on, and in a job of Ray's, why Ray calls it failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from cluster import speaking
from pipelines.recipe.arguments import parse_train
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation
from pipelines.train import show_end


@pytest.mark.parametrize("in_job", [False, True])
@pytest.mark.parametrize("status", ["stopped", "stopped before the first step", "done"])
def test_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_job: bool, status: str
) -> None:
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    if in_job:
        monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    out = str(tmp_path / "a run")
    folder = RunFolder.create(Path(out), "[loop]\nsteps = 3\n")
    options = parse_train(["recipes/toy.toml", "--out", out])
    show_end(status, RunLocation(out), folder, options, speaking.console())
    last, before = reversed(capsys.readouterr().out.splitlines()[-2:])
    go_on = f"continue with: python -m pipelines.train recipes/toy.toml --out '{out}' --resume"
    if status == "done":
        assert last == f"folder   {out}  (done)"
    elif in_job:
        assert before == go_on
        assert last == "stopped on request (exit code 130; Ray lists such a job as FAILED)"
    else:
        assert last == go_on
