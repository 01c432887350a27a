"""Sizes of models without loading them: headers of safetensors files, hub names that are known, and names that are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines import architectures
from pipelines.config import UserError
from pipelines.memory_models import JUDGES, PIPELINES, image_model, judge, numel_of_files


def test_headers_of_one_file_and_of_several(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    save_file({"a": np.zeros((2, 3)), "b": np.zeros(5, np.float16)}, one / "model.safetensors")
    save_file(
        {"a": np.zeros((2, 3)), "b": np.zeros(5, np.float16)}, one / "model.fp16.safetensors"
    )  # another precision
    assert numel_of_files(one) == 11
    save_file({"a": np.zeros((2, 3))}, many / "model-1-of-2.safetensors", metadata={"format": "pt"})
    save_file({"b": np.zeros(())}, many / "model-2-of-2.safetensors")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (many / "model.safetensors.index.json").write_text(json.dumps(index))
    assert numel_of_files(many) == 7
    (many / "model-2-of-2.safetensors").unlink()
    with pytest.raises(UserError, match="not all of its"):
        numel_of_files(many)


@pytest.mark.parametrize("name", PIPELINES)
def test_known_pipelines_have_all_parts(name: str) -> None:
    model = image_model(name)
    pipeline, parts = PIPELINES[name]
    assert model.pipeline == pipeline
    assert len(model.encoders) == len(parts) - 2
    assert {model.transformer.kind, model.vae.kind, *(part.kind for part in model.encoders.values())} <= {
        architectures.load(architecture)["class"] for architecture in parts.values()
    }


def test_a_buffer_of_the_files_counts() -> None:
    """SD3.5 medium carries its position embedding: 0.23 billion numbers beside 2.24 billion parameters."""
    assert image_model("stabilityai/stable-diffusion-3.5-medium").transformer.numel == 2_243_171_520 + 384**2 * 1536


@pytest.mark.parametrize("name", JUDGES)
def test_known_judges_have_both_towers(name: str) -> None:
    found = judge(name)
    assert found.text["hidden_size"] == found.vision["out_hidden_size"]


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"policy.model = 'someone/something'.*FLUX.1-dev"):
        image_model("someone/something")
    with pytest.raises(UserError, match=r"reward.model = 'someone/something'.*Qwen3-VL-32B"):
        judge("someone/something")
