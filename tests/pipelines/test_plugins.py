"""Rewards, objectives and families of a user's own: through doctor, plan, train and report, without a line of ours for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actors.messages import Prompt
from cluster.tasks import PoolSpec
from pipelines import doctor, draw, plan, report, train
from pipelines.recipe.errors import UserError
from pipelines.recipe.keys import inputs
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.submitting.package import check_paths
from pipelines.training.pools import pool_specs
from tests.support.plain_run import plain_pools
from tests.support.runs import lines_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding.md"
SD35 = "recipes/sd35m_8gpu.toml"
REWARD = 'reward={type = "brightness:BrightnessOptions", wanted = 128.0, num_cpus = 0.2}'
OBJECTIVE = 'objective={type = "weighted:WeightedOptions", temperature = 0.5}'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with the code of docs/adding.md."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, code in re.findall(r"`(\w+\.py)`[^`]*:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(code)
    lines = {
        file.stem: len([line for line in file.read_text().splitlines() if line.strip()]) for file in folder.iterdir()
    }
    assert lines["brightness"] <= 20
    assert lines["weighted"] + lines["weighted_loss"] <= 40
    monkeypatch.syspath_prepend(folder)
    return folder


def pools(recipe: Recipe, example: Prompt | None) -> list[PoolSpec]:
    """Plain actors draw and learn; the reward's own actor scores."""
    own = {spec.name: spec for spec in pool_specs(recipe, example)}
    return [own[spec.name] if spec.name == "reward" else spec for spec in plain_pools(recipe, example, pause_s=0.0)]


@pytest.mark.usefixtures("package")
def test_a_reward_of_ones_own_trains_and_is_reported(plain_world: Path, tmp_path: Path):
    out = tmp_path / "run"
    assert train.program(pools)([str(plain_world), "--out", str(out), "--executor", "local", "--set", REWARD]) == 0
    steps = lines_of(out / "metrics.jsonl")
    assert all(-128 <= step["reward_mean"] < 0 for step in steps)
    assert json.loads((out / "summary.json").read_text())["status"] == "done"
    assert load_recipe(out / "recipe.toml").reward.options.type == "brightness:BrightnessOptions"
    assert report.main([str(out)]) == 0
    assert "brightness:BrightnessOptions" in (out / "report.html").read_text()
    assert not (out / "tokens.json").exists(), "it explains nothing"


@pytest.mark.usefixtures("package")
def test_an_objective_of_ones_own_trains_and_is_reported(tiny_world: Path, tmp_path: Path):
    out = tmp_path / "run"
    settings = (OBJECTIVE, REWARD, "objective.timesteps_per_sample=2", "loop.steps=2", "heldout.every=9")
    options = [word for setting in settings for word in ("--set", setting)]
    assert train.main([str(tiny_world), "--out", str(out), "--executor", "local", *options]) == 0
    first, second = lines_of(out / "metrics.jsonl")
    assert first["matching_error"] > 0
    assert first["kl_reference"] == 0 < second["kl_reference"], "the policy has moved"
    assert report.main([str(out)]) == 0


FAMILIES = ("policy.family=lower_case:LowerCaseFacts", "reward.family=grey:GreyFacts")


@pytest.mark.usefixtures("package")
def test_families_of_ones_own_draw_judge_and_train(tiny_world: Path, tmp_path: Path):
    options = [word for setting in ("loop.steps=1", "heldout.every=9") for word in ("--set", setting)]
    own = [word for setting in FAMILIES for word in ("--set", setting)]
    figures = {}
    for name, families in (("ours", []), ("own", own)):
        out = tmp_path / name
        assert train.main([str(tiny_world), "--out", str(out), "--executor", "local", *options, *families]) == 0
        figures[name] = lines_of(out / "metrics.jsonl")[0]["reward_mean"]
    assert figures["own"] != figures["ours"], "the judge has seen other images"
    assert report.main([str(tmp_path / "own")]) == 0
    assert draw.main([str(tmp_path / "own"), "A CIRCLE", "--count", "1", "--out", str(tmp_path / "upper")]) == 0
    assert draw.main([str(tmp_path / "own"), "a circle", "--count", "1", "--out", str(tmp_path / "lower")]) == 0
    upper, lower = (next((tmp_path / name).glob("*-*.png"), None) for name in ("upper", "lower"))
    assert upper
    assert lower
    assert upper.read_bytes() == lower.read_bytes()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("policy.family=lower_case:Facts", 'policy.family = "lower_case:Facts" cannot be loaded: AttributeError'),
        ("policy.family=grey:GreyFacts", "derive it from actors.families.image:ImageFacts"),
        ("reward.family=lower_case:LowerCaseFacts", "derive it from actors.families.vlm:VlmFacts"),
        ("reward.family=lava", 'did you mean "llava"?'),
    ],
)
def test_a_family_that_is_not_there_is_told_before_any_worker_starts(
    tiny_world: Path, tmp_path: Path, capsys, setting: str, told: str
):
    assert train.main([str(tiny_world), "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_family_whose_class_is_not_there_is_told_before_any_worker_starts(
    package: Path, tiny_world: Path, tmp_path: Path, capsys
):
    (package / "half.py").write_text((package / "grey.py").read_text().replace("grey_model:Grey", "grey_model:Gray"))
    assert train.main([str(tiny_world), "--out", str(tmp_path / "run"), "--set", "reward.family=half:GreyFacts"]) == 2
    assert "has no Gray; did you mean Grey?" in " ".join(capsys.readouterr().err.split())


def test_submit_takes_both_classes_of_a_family_along(package: Path, plain_world: Path, tmp_path: Path):
    recipe = load_recipe(plain_world, ["policy.family=lower_case:LowerCaseFacts", "policy.model=/models/image"])
    (tmp_path / "root").mkdir()
    (package / "lower_case.py").rename(tmp_path / "root" / "lower_case.py")
    with pytest.raises(UserError, match=r"lower_case_model\.py lies outside of"):
        check_paths(recipe, {"lower_case.py": 1}, tmp_path / "root")


@pytest.mark.usefixtures("package")
def test_doctor_and_planner_need_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    on_a_gpu = REWARD.replace("num_cpus = 0.2", "num_gpus = 1.0")
    assert (
        plan.main([SD35, "--set", on_a_gpu, "--set", OBJECTIVE, "--set", "rollout.prompts_per_step=4", "--steps", "1"])
        == 0
    )
    (tmp_path / "data").mkdir()
    for name in ("train", "heldout"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(f'{{"caption": "a circle of {name}"}}\n')
    monkeypatch.chdir(tmp_path)
    assert doctor.main([SD35, "--set", on_a_gpu, "--set", OBJECTIVE]) == 0
    assert "VLM" not in capsys.readouterr().out


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ('type = "brightness:Nothing"', 'reward.type = "brightness:Nothing" cannot be loaded: AttributeError'),
        ('type = "no_such_package:Name"', "cannot be loaded: ModuleNotFoundError"),
        ('type = "brightness:Brightness"', "derive it from actors.reward.options:RewardOptions"),
        ('type = "clip_scor"', 'did you mean "clip_score"?'),
        ('type = "brightness:BrightnessOptions", wnted = 1.0', "reward.wnted: no such key; did you mean wanted?"),
        ('type = "brightness:BrightnessOptions", wanted = "x"', 'reward.wanted = "x": a number is expected'),
    ],
)
def test_a_mistake_in_it_ends_with_2_before_any_worker_starts(
    plain_world: Path, tmp_path: Path, capsys, reward: str, told: str
):
    out = tmp_path / "run"
    assert train.main([str(plain_world), "--out", str(out), "--set", f"reward={{{reward}}}"]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_submit_takes_it_along_or_says_what_to_do(package: Path, plain_world: Path, tmp_path: Path):
    recipe = load_recipe(plain_world, [REWARD, "policy.model=/models/image"])
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(UserError, match=r"brightness\.py lies outside of .*; move or copy its package there"):
        check_paths(recipe, {}, root)
    (package / "brightness.py").rename(root / "brightness.py")
    with pytest.raises(UserError, match=r"brightness\.py is left out by \.gitignore"):
        check_paths(recipe, {}, root)
    check_paths(recipe, {"brightness.py": 1}, root)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("size: int = 3", "has a key 'size', which the pool has"),
        ("options: str = ''", "has a key 'options', which means something else of every reward"),
        ("kind: str = ''", "has a key 'kind', which means something else"),
        (
            "models = {'model': 'vlm'}",
            "says that 'model' names a 'vlm': derive it from VlmOptions",
        ),
        ("models = {'model': 'pipeline'}", "says that 'model' names a 'pipeline': derive it from VlmOptions"),
    ],
)
def test_options_that_others_could_not_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_world: Path, body: str, told: str
):
    name = f"clashing_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(
        f"from actors.reward.options import RewardOptions\nclass Clashing(RewardOptions):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"{name}:Clashing {told}"):
        load_recipe(plain_world, [f'reward={{type = "{name}:Clashing"}}'])


@pytest.mark.parametrize(
    ("named", "told"), [("nowhere:Loss", "is not there"), ("weighted_loss:Los", "has no Los; it has Weighted")]
)
def test_an_objective_whose_class_is_not_there_is_told_before_any_worker_starts(
    package: Path, plain_world: Path, tmp_path: Path, capsys, named: str, told: str
):
    code = (package / "weighted.py").read_text()
    module = f"with_{named.partition(':')[0]}"
    (package / f"{module}.py").write_text(re.sub(r'objective = ".*?"', f'objective = "{named}"', code))
    setting = OBJECTIVE.replace("weighted:", f"{module}:")
    settings = ["--set", setting, "--set", "objective.timesteps_per_sample=2"]
    assert train.main([str(plain_world), "--out", str(tmp_path / "run"), *settings]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_file_that_may_be_left_out_is_looked_for_all_the_same(package: Path, plain_world: Path):
    (package / "optional.py").write_text(
        "from actors.options import File\nfrom actors.reward.options import RewardOptions\n"
        "class Optional(RewardOptions):\n    head: File | None = None\n"
    )
    recipe = load_recipe(plain_world, ['reward={type = "optional:Optional", head = "nowhere.pth"}'])
    assert ("reward.head", "nowhere.pth") in [(key, place) for key, place, _ in inputs(recipe)]


def test_code_that_lies_where_a_job_does_not_look_is_refused(package: Path, plain_world: Path, tmp_path: Path):
    (package / "brightness.py").rename(package / "glow.py")
    recipe = load_recipe(plain_world, [REWARD.replace("brightness:", "glow:"), "policy.model=/models/image"])
    with pytest.raises(UserError, match=r"glow\.py is not where a job looks for it"):
        check_paths(recipe, {"mine/glow.py": 1}, tmp_path)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("pass", "does not say family, parts, transformer, shape, network"),
        ("family = 'm:M'; parts = (); transformer = 'T'; shape = network = staticmethod(print)", None),
    ],
)
def test_facts_that_say_too_little_are_told_when_the_recipe_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_world: Path, body: str, told: str | None
):
    name = f"facts_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(
        f"from actors.families.image import ImageFacts\nclass Mine(ImageFacts):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    if told is None:
        assert load_recipe(plain_world, [f"policy.family={name}:Mine"]).policy.family == f"{name}:Mine"
        return
    with pytest.raises(UserError, match=told):
        load_recipe(plain_world, [f"policy.family={name}:Mine"])


def test_a_family_whose_module_lacks_a_package_is_a_mistake_and_not_a_lack_of_torch(
    package: Path, tiny_world: Path, tmp_path: Path, capsys
):
    (package / "lacking_model.py").write_text("import no_such_package\nclass Grey: ...\n")
    (package / "lacking.py").write_text(
        (package / "grey.py").read_text().replace("grey_model:Grey", "lacking_model:Grey")
    )
    assert (
        train.main([str(tiny_world), "--out", str(tmp_path / "run"), "--set", "reward.family=lacking:GreyFacts"]) == 2
    )
    assert "lacking_model:Grey cannot be loaded: ModuleNotFoundError" in " ".join(capsys.readouterr().err.split())
