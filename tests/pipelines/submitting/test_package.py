"""What a job takes along: little, and all that a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from pipelines.preflight.packages import ROOT
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.provenance import git_revision
from pipelines.submitting import package as shipping


def make(root: Path, *names: str) -> dict[str, int]:
    """A repository with these files of ten bytes; what a job would take along."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0123456789")
    return shipping.list_files(root)


def toy(**settings: str) -> Recipe:
    return load_recipe(ROOT / "recipes/toy.toml", [f"{key.replace('__', '.')}={it}" for key, it in settings.items()])


def test_the_repository_ships_a_few_mebibytes_of_what_runs_and_nothing_else() -> None:
    files = shipping.list_files()
    assert sum(files.values()) < 20 * 2**20
    programs = ("actors", "bench", "cluster", "pipelines", "recipes", "tests", "toy")
    tracked = [path for name in programs for path in (ROOT / name).rglob("*") if path.is_file()]
    needed = {path.relative_to(ROOT).as_posix() for path in tracked if "__pycache__" not in path.parts}
    assert needed <= set(files)
    assert {name.partition("/")[0] for name in files if "/" in name} == set(programs)


def test_what_is_packed_is_a_repository_of_its_own(tmp_path: Path) -> None:
    """That it also trains, a job on a real cluster shows (tests/faults/test_submit.py)."""
    shipping.pack(shipping.list_files(), tmp_path / "package.zip")
    with ZipFile(tmp_path / "package.zip") as package:
        package.extractall(tmp_path / "job")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.train", "recipes/toy.toml", "--set", "heldout.checker=toy.none:check"],
        cwd=tmp_path / "job",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2  # the last of the checks
    assert "heldout.checker = 'toy.none:check'" in done.stderr


def test_ignore_files_are_honoured(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("runs/\n*.log\n")
    (tmp_path / ".rayignore").write_text("/docs\n")
    files = make(tmp_path, "toy/a.py", "runs/one/metrics.jsonl", "docs/page.md", "toy/docs/page.md", "toy/out.log")
    assert set(files) == {".gitignore", ".rayignore", "toy/a.py", "toy/docs/page.md"}
    assert files["toy/a.py"] == 10


def test_too_large_a_folder_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    make(tmp_path, *(f"data/{number}.bin" for number in range(7)))
    for number in range(7):
        os.truncate(tmp_path / f"data/{number}.bin", (10 + number) * 2**20)  # sparse: takes no disk
    with pytest.raises(UserError, match=r"would take 91\.0 MiB .* and may take 80\.0 MiB") as refused:
        check_size(80, tmp_path)
    listed = [line.split()[-1] for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert listed == [f"data/{number}.bin" for number in (6, 5, 4, 3, 2)]
    assert ".rayignore" in str(refused.value)
    (tmp_path / ".rayignore").write_text("/data\n")
    check_size(80, tmp_path)


def check_size(mebibytes: int, root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "LIMIT_BYTES", mebibytes * 2**20)
        shipping.check_size(shipping.list_files(root), root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data__train": "data/none.jsonl"},
            "data.train = 'data/none.jsonl' would not reach .*: there is no such file",
        ),
        ({"data__heldout": "runs/prompts.jsonl"}, "data.heldout = .* left out by .gitignore or .rayignore"),
        ({"data__train": "../prompts.jsonl"}, "data.train = .*prompts.jsonl"),
        ({"reward__model": "toy/models/none"}, "reward.model = 'toy/models/none'"),
        ({"loop__checkpoints": "runs/checkpoints"}, "loop.checkpoints = 'runs/checkpoints' would lie"),
        ({"heldout__checker": "tests.check:check"}, "tests/check.py is left out"),
    ],
)
def test_a_path_that_the_job_would_not_find_is_refused(
    tmp_path: Path, settings: Mapping[str, str], message: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / ".rayignore").write_text("/runs\n/tests\n")
    names = ["toy/data/train.jsonl", "toy/data/heldout.jsonl", "toy/models/judge/config.json"]
    names += ["toy/models/image/model_index.json", "runs/prompts.jsonl", "tests/check.py", "../prompts.jsonl"]
    files = make(root, *names)
    shipping.check_paths(toy(), files, root)
    with pytest.raises(UserError, match=message):
        shipping.check_paths(toy(**settings), files, root)


def test_paths_on_the_nodes_urls_and_hub_names_are_the_nodes_concern() -> None:
    recipe = toy(
        data__train="s3://bucket/prompts", data__heldout="/data/heldout.jsonl", reward__model="Qwen/Qwen3-VL-8B-Instruct",
        policy__model="/models/sd3", loop__checkpoints="s3://bucket/checkpoints",
    )  # fmt: skip
    shipping.check_paths(recipe, shipping.list_files())


def test_the_revision_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    who = ["-c", "user.name=it", "-c", "user.email=it@example.org", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    revision = git_revision(tmp_path)
    assert revision is not None
    assert len(revision) == 40
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path) == f"{revision}-dirty"


@pytest.mark.parametrize("out", [None, "runs/one", "../one"])
def test_a_run_in_a_job_needs_a_place_that_lasts(out: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shipping.RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    shipping.check_out_of_job(out)
    monkeypatch.setenv(shipping.RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    with pytest.raises(UserError, match="absolute path"):
        shipping.check_out_of_job(out)
    shipping.check_out_of_job("/data/run")
    shipping.check_out_of_job("s3://bucket/run")
