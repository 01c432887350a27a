"""`echoray`: one command before all programs, from any folder, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.__main__ import PROGRAMS, completion, main
from pipelines.recipe.changes import differences, recipe_sha256
from pipelines.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_it_names_its_version_and_its_programs(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"echoray {version}\n"
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and about in text for name, (_, about) in PROGRAMS.items())


@pytest.mark.parametrize("words", [[], ["trian"]])
def test_what_names_no_program_ends_with_2(capsys, words):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    told = capsys.readouterr()
    assert "train" in told.out + told.err


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_help_of_its_own(capsys, name):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"python -m {PROGRAMS[name][0].removesuffix('.__main__')} " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--version"], ["--help"]])
def test_it_loads_no_program_before_one_is_named(words):
    code = f"import sys; from pipelines.__main__ import main\ntry: main({words})\nexcept SystemExit: pass\n"
    code += "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'ray', 'numpy', 'pydantic', 'rich', 'shtab'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_the_script_completes_programs_and_their_options(tmp_path):
    pytest.importorskip("shtab")
    script = tmp_path / "completion.bash"
    script.write_text(completion("bash"))
    complete = f"""source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_echoray; printf '%s\\n' "${{COMPREPLY[@]}}" """

    def completed(*words):
        done = subprocess.run(["bash", "-c", complete, "bash", *words], capture_output=True, text=True)
        return set(done.stdout.split())

    assert completed("echoray", "tr") == {"train"}
    assert {"--resume", "--out", "--set"} <= completed("echoray", "train", "--")
    assert completed("echoray", "export", "--mer") == {"--merge"}
    assert {"status", "scale", "stop"} <= completed("echoray", "cluster", "s")


def test_a_recipe_and_what_it_names_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    here = load_recipe(Path("recipes/toy.toml"))
    monkeypatch.chdir(tmp_path)
    there = load_recipe(Path("recipes/toy.toml"), ["heldout.every=9"])
    assert here.policy.model == "toy/models/image"
    for place in (there.policy.model, there.reward.model, there.data.train, there.data.heldout):
        assert Path(place).is_relative_to(ROOT)
        assert Path(place).exists()
    (tmp_path / "toy/models/image").mkdir(parents=True)
    assert load_recipe(Path("recipes/toy.toml")).policy.model == "toy/models/image", "the current folder comes first"


def test_a_recipe_is_the_same_from_any_folder(tmp_path, monkeypatch):
    """So a run is resumed from another one."""
    monkeypatch.chdir(ROOT)
    here = load_recipe(Path("recipes/toy.toml"))
    monkeypatch.chdir(tmp_path)
    there = load_recipe(Path("recipes/toy.toml"))
    assert recipe_sha256(here) == recipe_sha256(there)
    assert set(differences(here, there)) <= {"data.train", "data.heldout"}, "which are compared by their content"


def test_a_program_runs_from_another_folder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["doctor", "recipes/toy.toml"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
