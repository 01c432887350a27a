"""Models are brought to where workers will read them, before any worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from cluster.tasks import PoolSpec
from cluster.workers.on_nodes import Home, homes
from pipelines import prefetch
from pipelines.recipe.load import load_recipe
from tests.support.hub import hub, snapshot

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["--set", "policy.model=toy/image", "--set", "reward.model=toy/judge"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, in a folder without a toy/, for that would be a path of the toy models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_cluster_this_machine_gets_both_models_whole(
    cache: Path, tiny_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with hub(monkeypatch):
        assert prefetch.main([str(tiny_world), *MODELS]) == 0
    image, judge = (snapshot(cache, name) for name in ("toy/image", "toy/judge"))
    assert (image / "transformer" / "config.json").is_file()
    assert (judge / "model.safetensors").is_file()
    assert not list(cache.rglob("*.md")), "only what is read"
    assert capsys.readouterr().out.splitlines() == [
        f"toy/image is in {image} (0.0 GiB)",
        f"toy/judge is in {judge} (0.0 GiB)",
    ]
    assert prefetch.main([str(tiny_world), *MODELS]) == 0, "and once there, no hub is needed"


def test_a_model_that_is_a_folder_is_said_to_be_one(
    cache: Path, tiny_world: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prefetch.main([str(tiny_world)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("is a folder, nothing to download" in line for line in lines)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("someone/gated", "is gated: accept its terms on the hub, and set HF_TOKEN"),
        ("someone/unknown", "the hub knows no model someone/unknown"),
        ("./nowhere", "there is no folder './nowhere'"),
    ],
)
def test_a_model_that_cannot_be_had_is_a_mistake_in_words(
    cache: Path,
    tiny_world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    model: str,
    told: str,
) -> None:
    with hub(monkeypatch):
        assert prefetch.main([str(tiny_world), "--set", f"reward.model={model}"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["score", "evaluate"])
def test_models_of_a_program_that_trains_nothing_are_brought_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert prefetch.main([f"recipes/toy_{name}.toml"]) == 0
    said = capsys.readouterr().out
    assert "toy/models/judge is a folder, nothing to download" in said
    assert ("toy/models/image is a folder" in said) == (name == "evaluate")


def test_every_node_that_may_get_a_worker_brings_its_own(
    ray_cluster: str, tiny_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    assert prefetch.main([str(tiny_world)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("node ")]
    assert len(lines) == 2, "one node, two models"
    assert prefetch.main([str(tiny_world), "--set", "reward.model=./nowhere"]) == 2
    said = capsys.readouterr().err
    assert "there is no folder './nowhere'" in said
    assert "Traceback" not in said
    only_elsewhere = [word for pool in ("rollout", "reward", "policy") for word in ("--set", f"{pool}.num_gpus=32")]
    assert prefetch.main([str(tiny_world), *only_elsewhere]) == 2
    assert "no node of the cluster can hold a worker" in capsys.readouterr().err


def test_a_node_gets_only_what_the_workers_that_fit_it_read(tiny_world: Path) -> None:
    recipe = load_recipe(tiny_world)
    read = prefetch.read_by_pool(recipe)
    image, judge = recipe.policy.model, recipe.reward.model
    assert [named.model for named in prefetch.models_of(read, {"reward"})] == [judge]
    assert [named.model for named in prefetch.models_of(read, {"rollout"})] == [image]
    assert [named.model for named in prefetch.models_of(read, {"rollout", "reward"})] == [image, judge]


def test_a_node_is_a_home_where_its_labels_and_amounts_allow_a_worker(ray_cluster: str) -> None:
    specs = [
        PoolSpec("fits", object, num_cpus=1, num_gpus=1),
        PoolSpec("too large", object, num_gpus=5),
        PoolSpec("elsewhere", object, num_cpus=0, labels={"zone": "b"}),
    ]
    [home] = homes(specs)
    assert isinstance(home, Home)
    assert home.pools == {"fits"}
    assert homes(specs[1:]) == []
