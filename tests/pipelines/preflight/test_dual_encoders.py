"""A reward on CLIP or SigLIP before any worker starts: its files, its weights, its memory, and what is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.models.kinds import NamedModel
from actors.vlm.dual_encoder import load_dual_encoder
from pipelines import prefetch
from pipelines.planning.flops import embedding
from pipelines.preflight.checks import check_models
from pipelines.preflight.memory.dual_encoder import pass_bytes
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Judge, dual_encoder, models_to_estimate
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from tests.support.live_bytes import LiveBytes
from toy.random_models.clip import make_tiny_dual_encoder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dual_encoder(tmp_path_factory.mktemp(request.param), request.param)


def scored_by(world: Path, folder: Path, *settings: str) -> Recipe:
    return load_recipe(world, [f'reward={{type = "clip_score", model = "{folder}", num_cpus = 0.2}}', *settings])


def test_its_weights_are_compared_with_its_class(tiny_world: Path, folder: Path, tmp_path: Path):
    assert check_models(scored_by(tiny_world, folder))
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors.pop("logit_scale")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 missing: logit_scale"):
        check_models(scored_by(tiny_world, broken))


def test_a_model_of_another_kind_and_a_head_that_is_not_there_are_mistakes(tiny_world: Path, folder: Path):
    judge = tiny_world.parent / "judge"
    with pytest.raises(UserError, match="is a llava; models of the types clip, siglip are expected here"):
        check_models(scored_by(tiny_world, judge))
    aesthetic = f'reward={{type = "aesthetic", model = "{folder}", head = "no/such/head.pth"}}'
    with pytest.raises(UserError, match=r"reward\.head = '.*head\.pth': there is no such file"):
        check_models(load_recipe(tiny_world, [aesthetic]))


def test_its_worker_holds_all_weights_and_prefetch_brings_it(tiny_world: Path, folder: Path):
    recipe = scored_by(tiny_world, folder)
    worker = estimate(recipe, models_to_estimate(recipe.policy, recipe.rewards))["reward"]
    stored = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert worker.held == {"both encoders": 4 * stored}
    assert worker.phases.keys() == {"forward passes"}
    assert prefetch.models_of(prefetch.read_by_pool(recipe), {"reward"}) == [NamedModel(str(folder), "dual_encoder")]


@pytest.mark.parametrize("count", [2, 20])
def test_a_whole_pass_takes_no_more_than_was_said(folder: Path, count: int):
    encoder = load_dual_encoder(str(folder), torch.float32, torch.device("cpu"))
    images = np.zeros((count, 32, 32, 3), np.uint8)
    with LiveBytes([*encoder.model.parameters(), *encoder.model.buffers()]) as live:
        encoder.images(images)
    said = pass_bytes(dual_encoder(str(folder)), count, element=4, gpu=False)
    assert 0.3 * said < live.peak < 1.1 * said


def test_operations_are_those_of_the_vision_towers_matrices(folder: Path):
    judge: Judge = dual_encoder(str(folder))
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    width, inner, patches, layers = config["hidden_size"], config["intermediate_size"], 16, config["num_hidden_layers"]
    assert embedding(judge).linear == 2 * patches * layers * (4 * width**2 + 2 * width * inner)
    assert embedding(judge).attention == 2 * 2 * layers * patches**2 * width
