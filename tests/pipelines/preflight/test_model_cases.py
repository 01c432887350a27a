"""Model folders as they are found in the wild: what cannot be used is refused before any worker starts, and what can be is not."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from actors.diffusion.family import LoadOptions, load_family
from actors.fits import misfits
from actors.mistake import Mistake
from actors.models.folder import check_pipeline, check_vlm
from actors.models.kinds import NamedModel
from actors.vlm.family import load_vlm
from pipelines import doctor
from pipelines.preflight.checks import check_models
from pipelines.preflight.weights import find_misfits
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.train import main as train
from tests.support.cases import ENCODER_WEIGHTS, JUDGE_WEIGHTS, MODELS, TOY_MODELS, changed, edited, gone, with_one_more
from toy.random_models.families import MAKERS
from toy.random_models.vlms import TINY_VLMS

TOY_RECIPE = TOY_MODELS.parents[1] / "recipes" / "toy.toml"


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(TOY_RECIPE.parents[1])


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_that_cannot_be_used_is_refused_with_its_file_and_the_reason(name: str, tmp_path: Path) -> None:
    case = MODELS[name]
    folder = case.make(tmp_path / name)
    with pytest.raises(UserError) as refused:
        check_models(load_recipe(TOY_RECIPE, [f"{case.key}={folder}"]))
    assert str(refused.value).startswith(f"{case.key} = {str(folder)!r}: ")
    assert [word for word in case.told if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    "name", ["judge_tensor_missing", "encoder_tensor_missing", "transformer_lfs", "judge_no_template"]
)
def test_training_and_the_doctor_say_the_same_and_exit_with_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and no worker was made: on either executor workers come after the run folder's place was looked at."""
    given = f"{MODELS[name].key}={MODELS[name].make(tmp_path / name)}"
    out = tmp_path / "run"
    assert train([str(TOY_RECIPE), "--out", str(out), "--set", given, "--executor", "local"]) == 2
    of_training = capsys.readouterr().err
    assert doctor.main([str(TOY_RECIPE), "--set", given]) == 2
    assert capsys.readouterr().err == of_training
    assert "Traceback" not in of_training
    assert not out.exists()


def test_a_process_without_torch_asks_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `doctor` and the driver are: tests/test_architecture.py."""
    folder = MODELS["judge_tensor_missing"].make(tmp_path / "judge")
    monkeypatch.delitem(sys.modules, "torch")
    found = find_misfits([NamedModel(str(folder), "vlm"), NamedModel(str(TOY_MODELS / "judge"), "vlm")])
    assert found is not None
    assert "model.safetensors are not those of a LlavaForConditionalGeneration: 1 missing" in str(found[0])
    assert found[1] is None


@pytest.mark.parametrize("name", ["judge_shape", "vae_tensor_missing", "tokenizer_missing", "scheduler_heun"])
def test_a_worker_refuses_the_same_for_models_that_the_driver_has_not_seen(name: str, tmp_path: Path) -> None:
    import torch

    case, cpu = MODELS[name], torch.device("cpu")
    folder = str(case.make(tmp_path / name))
    options = LoadOptions(cpu, torch.float32, decoder=True, max_sequence_length=0)
    load = (
        partial(load_family, folder, options) if case.kind == "image" else partial(load_vlm, folder, torch.float32, cpu)
    )
    with pytest.raises(Mistake) as refused:
        load()
    assert [word for word in case.told if word not in str(refused.value)] == []


def test_the_models_of_every_family_fit_themselves(tmp_path: Path) -> None:
    for name, make in MAKERS.items():
        folder = make(tmp_path / name)
        check_pipeline(folder)
        assert misfits([NamedModel(str(folder), "pipeline")]) == (None,), name
    for name, make in TINY_VLMS.items():
        folder = make(tmp_path / name)
        check_vlm(folder)
        assert misfits([NamedModel(str(folder), "vlm")]) == (None,), name


def test_names_that_older_files_have_beside_their_weights_are_no_mistake(tmp_path: Path) -> None:
    import torch

    image, judge = (shutil.copytree(TOY_MODELS / kind, tmp_path / kind) for kind in ("image", "judge"))
    changed(ENCODER_WEIGHTS, lambda found: {**found, "text_model.embeddings.position_ids": torch.arange(16)})(image)
    older = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    changed(JUDGE_WEIGHTS, lambda found: {**found, older: torch.zeros(16)})(judge)
    assert misfits([NamedModel(str(image), "pipeline"), NamedModel(str(judge), "vlm")]) == (None, None)


def test_an_adapter_beside_a_judge_must_fit_as_well(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    folder = shutil.copytree(TOY_MODELS / "judge", tmp_path / "judge")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    check_vlm(folder)
    assert misfits([NamedModel(str(folder), "vlm")]) == (None,)
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if "layers.0.self_attn.q_proj.lora_A" not in name}, file)
    lacking = misfits([NamedModel(str(folder), "vlm")])[0]
    assert lacking is not None
    assert "adapter_model.safetensors" in lacking
    assert "layers.0.self_attn.q_proj.lora_A" in lacking
    file.unlink()
    with pytest.raises(Mistake, match=r"adapter_model\.safetensors cannot be read"):
        check_vlm(folder)


def test_weights_that_fit_are_asked_about_once_and_changed_ones_again(tmp_path: Path) -> None:
    folder = shutil.copytree(TOY_MODELS / "judge", tmp_path / "judge")
    recipe = load_recipe(TOY_RECIPE, [f"reward.model={folder}"])
    assert check_models(recipe)
    stamps = list((tmp_path / "cache").rglob("*"))
    assert check_models(recipe)
    assert list((tmp_path / "cache").rglob("*")) == stamps
    changed(JUDGE_WEIGHTS, with_one_more)(folder)
    with pytest.raises(UserError, match="zz_unknown"):
        check_models(recipe)


@pytest.mark.parametrize(
    ("last_words", "outcome"),
    [
        ("ModuleNotFoundError: No module named 'torch'", None),
        ("RuntimeError: no more memory", "ended with 3: RuntimeError: no more memory"),
        ("", "ended with 3: it said nothing"),
    ],
)
def test_a_breakdown_while_weights_are_read_is_not_taken_for_a_library_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_words: str, outcome: str | None
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{last_words}" >&2\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delitem(sys.modules, "torch")
    if outcome is None:
        assert find_misfits([NamedModel(str(TOY_MODELS / "judge"), "vlm")]) is None
    else:
        with pytest.raises(ValueError, match=outcome):
            find_misfits([NamedModel(str(TOY_MODELS / "judge"), "vlm")])


def test_an_image_encoder_that_the_index_does_not_name_is_not_asked_for(tmp_path: Path) -> None:
    """Nor is a part of which the index says that there is none."""
    folder = shutil.copytree(TOY_MODELS / "image", tmp_path / "image")
    edited("model_index.json", image_encoder=None, feature_extractor=None)(folder)
    check_pipeline(folder)
    gone("text_encoder_2")(folder)
    edited("model_index.json", text_encoder_2=[None, None], tokenizer_2=[None, None])(folder)
    with pytest.raises(Mistake, match="names no text_encoder_2, without which a StableDiffusion3Pipeline"):
        check_pipeline(folder)
