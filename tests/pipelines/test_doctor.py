"""The doctor's command line: exit codes, what it prints, and that it needs neither torch nor Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import doctor

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
EIGHT = str(RECIPES / "sd35m_8gpu.toml")


@pytest.fixture
def given_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the prompts that a user must give."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"caption": "a red circle"}\n')
    (tmp_path / "data" / "heldout.jsonl").write_text('{"caption": "a blue square"}\n')
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("given_prompts")
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*gpu.toml")), ids=lambda path: path.stem)
def test_a_recipe_that_fits_exits_with_0(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(path)]) == 0
    out = capsys.readouterr().out
    gpus = int(path.stem.rsplit("_", 1)[1].removesuffix("gpu"))
    assert f"GPUs asked for: {gpus}." in out
    assert out.splitlines()[-1] == "fits"


@pytest.mark.usefixtures("given_prompts")
def test_a_recipe_that_cannot_fit_exits_with_1_and_the_advice_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    arguments, changes = [EIGHT, "--set", "policy.micro_batch=48", "--gpu-memory", "24"], 0
    while doctor.main(arguments) == 1:
        out = capsys.readouterr().out
        assert "does not fit" in out
        override = out.split("change first: ")[1].split("  (saves")[0].replace(" = ", "=")
        arguments, changes = [*arguments, "--set", override], changes + 1
    assert capsys.readouterr().out.splitlines()[-1] == "fits"
    assert 1 < changes < 10


@pytest.mark.usefixtures("given_prompts")
def test_a_share_of_a_gpu_that_is_less_than_its_worker_takes_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    shares = ["policy.num_gpus=0.4", "rollout.num_gpus=0.3", "reward.num_gpus=0.3"]
    overrides = [word for share in shares for word in ("--set", share)]
    assert doctor.main([str(RECIPES / "sd35m_qwen25vl7b_1gpu.toml"), *overrides]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "policy.num_gpus = 0.4 lets torch take 31.5 GiB there, and it takes 3" in out
    assert "change first: policy.num_gpus = 0.5, rollout.num_gpus = 0.25, reward.num_gpus = 0.25" in out
    assert "then it fits" in out


@pytest.mark.usefixtures("given_prompts")
def test_where_nothing_helps_it_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(RECIPES / "z_image_qwen3vl32b_64gpu.toml"), "--gpu-memory", "48"]) == 1
    assert "a GPU still needs 64.2 GiB: take a smaller model or a larger GPU" in capsys.readouterr().out


@pytest.mark.usefixtures("given_prompts")
def test_warnings_do_not_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([EIGHT, "--set", "rollout.guidance_scale=4.5"]) == 0
    assert "warning rollout.guidance_scale = 4.5" in capsys.readouterr().out


def test_prompts_that_the_user_must_give_are_asked_for_after_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.main([EIGHT]) == 2
    out, err = capsys.readouterr()
    assert "fits" in out
    assert "data.train = 'data/train.jsonl': there is no such file" in err


@pytest.mark.usefixtures("given_prompts")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no/such.toml"], "no recipe at no/such.toml"),
        ([EIGHT, "--set", "policy.micro_bach=1"], "did you mean micro_batch?"),
        ([EIGHT, "--set", "policy.model=nowhere"], "policy.model = 'nowhere': no model"),
        ([EIGHT, "--set", "policy.model=someone/something"], "its size is not known without its files"),
        ([EIGHT, "--set", "rollout.height=500"], "multiples of 16"),
        ([EIGHT, "--set", "data.heldout=data/train.jsonl"], "also in data.train"),
    ],
)
def test_a_mistake_exits_with_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(arguments) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("memory", ["0", "-1", "nan", "inf"])
def test_a_card_without_memory_is_a_mistake_of_the_command_line(
    capsys: pytest.CaptureFixture[str], memory: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        doctor.main([EIGHT, "--gpu-memory", memory])
    assert "give the GiB of a card" in capsys.readouterr().err


def test_a_worker_without_a_gpu_is_shown_but_counts_on_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert doctor.main(["recipes/toy.toml"]) == 0
    out = capsys.readouterr().out
    assert "1 x CPU" in out
    assert "GPUs asked for: 0." in out
    assert "KiB an image" in out
    assert out.splitlines()[-1].startswith("fits as far as GPUs go: none is asked for. All workers take ")


def test_it_loads_neither_torch_nor_ray() -> None:
    code = "import sys, pipelines.doctor; print(*{'torch', 'ray', 'transformers', 'diffusers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("score", "score: 47 images"), ("evaluate", "evaluate: 1,200 images by base"), ("caption", "caption: ")],
)
def test_of_a_program_that_trains_nothing_it_says_what_workers_read(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert doctor.main([f"recipes/toy_{name}.toml"]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert "reads toy/models/judge" in out


@pytest.mark.parametrize(
    ("name", "override", "told"),
    [
        ("score", "data.images=nowhere", "data.images = 'nowhere': there is nothing there"),
        ("score", "reward.model=./nowhere", "there is no folder './nowhere'"),
        ("evaluate", "models.other=./nowhere", "models.other = './nowhere'"),
        ("evaluate", "heldout.sizes=[[30, 32]]", "draws multiples of"),
        ("evaluate", "rollout.device=cuda", "rollout.num_gpus = 0"),
    ],
)
def test_it_finds_the_mistakes_that_such_a_program_finds_before_its_workers_start(
    name: str, override: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert doctor.main([f"recipes/toy_{name}.toml", "--set", override]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def several(sharing: float) -> list[str]:
    judge = f'type = "promptecho", model = "Qwen/Qwen3-VL-8B-Instruct", num_gpus = {sharing}'
    rewards = (
        f'{{name = "echo", {judge}}}, {{name = "again", {judge}, size = 2}}, {{name = "small", type = "jpeg_size"}}'
    )
    return [EIGHT, "--set", f"reward=[{rewards}]"]


@pytest.mark.usefixtures("given_prompts")
def test_several_rewards_are_workers_of_their_own(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert doctor.main(several(1.0)) == 0
    out = capsys.readouterr().out
    assert all(pool in out for pool in ("reward.echo", "reward.again", "reward.small"))
    assert "GPUs asked for: 10." in out


@pytest.mark.usefixtures("given_prompts")
def test_advice_changes_one_of_several_rewards_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([*several(0.2), "--gpu-memory", "48"]) == 1
    assert "reward.echo.num_gpus" in capsys.readouterr().out
