"""Tiny models, made once, and what each reward is told of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.model_server import ModelServer, model_server
from toy.random_models.clip import make_tiny_dual_encoder
from toy.random_models.parrot import make_parrot
from toy.random_models.vlms import make_tiny_llava


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_llava(tmp_path_factory.mktemp("tiny_llava"))


@pytest.fixture(scope="session", params=["clip", "siglip"])
def tiny_encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dual_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def server() -> Iterator[ModelServer]:
    with model_server() as told:
        yield told


@pytest.fixture(scope="session")
def keys(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> dict[str, dict[str, Any]]:
    """What each reward is told beside its defaults."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    make_tiny_dual_encoder(folder / "clip")
    save_file({"weight": torch.full((1, 16), 0.5), "bias": torch.ones(1)}, folder / "head.safetensors")
    clip, vlm = {"model": str(folder / "clip")}, {"model": str(tiny_llava)}
    writing = {"model": str(make_parrot(folder / "parrot", "score 7")), "max_tokens": 12}
    remote = {"base_url": server.base_url, "model": "some/model"}
    head = {**clip, "head": str(folder / "head.safetensors")}
    return {
        "aesthetic": head,
        "clip_score": clip,
        "infer_score": writing,
        "jpeg_size": {},
        "promptecho": vlm,
        "remote_promptecho": remote,
        "remote_vqa_score": remote,
        "text_rendering": vlm,
        "vqa_score": vlm,
    }
