"""Sizes of models without loading them: headers of safetensors files, hub names that are known, and names that are not."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest
from safetensors.numpy import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actors.families.registry import PIPELINES
from actors.mistake import Mistake
from pipelines.preflight.memory import architectures
from pipelines.preflight.memory.models import JUDGES, KNOWN, image_model, judge
from pipelines.recipe.errors import UserError
from tests.support.cases import TOY_MODELS


def numbers(file: Path) -> int:
    return sum(tensor.size for tensor in load_file(file).values())


def test_the_numbers_of_a_part_are_those_of_its_files_whether_one_or_several(tmp_path: Path) -> None:
    one, many = (shutil.copytree(TOY_MODELS / "judge", tmp_path / name) for name in ("one", "many"))
    shutil.copy(one / "model.safetensors", one / "model.fp16.safetensors")  # another precision
    tensors = load_file(one / "model.safetensors")
    first = {name: tensors[name] for name in sorted(tensors)[:20]}
    rest = {name: tensor for name, tensor in tensors.items() if name not in first}
    save_file(first, many / "model-1-of-2.safetensors", metadata={"format": "pt"})
    save_file(rest, many / "model-2-of-2.safetensors")
    where = {name: f"model-{1 if name in first else 2}-of-2.safetensors" for name in tensors}
    (many / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (many / "model.safetensors").unlink()
    assert (
        judge(str(one)).model.numel == judge(str(many)).model.numel == numbers(TOY_MODELS / "judge/model.safetensors")
    )


def test_what_a_config_leaves_out_is_what_its_class_fills_in() -> None:
    """The configs that people really have leave out much: LLaVA 1.5's says nothing of the width of its language model."""
    for kind, fields in json.loads(
        (TOY_MODELS.parents[1] / "pipelines" / "preflight" / "memory" / "config_defaults.json").read_text()
    ).items():
        if hasattr(diffusers, kind):
            signature = inspect.signature(getattr(diffusers, kind).__init__).parameters
            found = {name: signature[name].default for name in fields}
            found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        else:
            config = CONFIG_MAPPING[kind]()
            found = {name: getattr(config, name) for name in fields}
        assert found == fields, kind


def test_a_judge_of_few_words_is_estimated_with_what_its_class_fills_in(tmp_path: Path) -> None:
    folder = shutil.copytree(TOY_MODELS / "judge", tmp_path / "judge")
    full = json.loads((folder / "config.json").read_text())
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps({**full, "text_config": text}))
    found = judge(str(folder))
    assert (found.text["hidden_size"], found.text["intermediate_size"], found.text["vocab_size"]) == (
        4096,
        11008,
        32064,
    )
    (folder / "config.json").write_text(json.dumps({**full, "text_config": {"model_type": "unheard_of"}}))
    with pytest.raises(Mistake, match=r"config\.json has no field 'hidden_size'"):
        judge(str(folder)).text["hidden_size"]


@pytest.mark.parametrize("name", KNOWN)
def test_known_pipelines_have_all_parts(name: str) -> None:
    model = image_model(name)
    pipeline, parts = KNOWN[name]
    assert model.family is PIPELINES[pipeline]
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
    assert found.text["hidden_size"] == found.vision.get("out_hidden_size", found.text["hidden_size"])
    assert {"hidden_size", "intermediate_size", "patch_size"} <= found.vision.keys()


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"policy.model = 'someone/something'.*FLUX.1-dev"):
        image_model("someone/something")
    with pytest.raises(UserError, match=r"reward.model = 'someone/something'.*Qwen3-VL-32B"):
        judge("someone/something")
