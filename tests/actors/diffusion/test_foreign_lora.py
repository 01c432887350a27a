"""LoRAs as they are found: every format gives the same adapter, and what does not fit says what to set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import save_file

from actors.device import pick_device
from actors.diffusion import lora
from actors.diffusion.adapter_file import find_adapter
from actors.diffusion.family import LoadOptions, load_family
from actors.diffusion.foreign_lora import start_from
from actors.mistake import Mistake

RANK, ALPHA = 4, 8.0


def family_with_lora(model, targets="attention", rank=RANK):
    options = LoadOptions(pick_device("cpu"), torch.float32, decoder=False, max_sequence_length=2)
    family = load_family(model, options)
    lora.attach(family.transformer, rank, ALPHA, family.lora_targets[targets], seed=0)
    return family


def random_tensors(family):
    generator = torch.Generator().manual_seed(1)
    trained = lora.tensors(family.transformer, lora.TRAINED)
    return {name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in trained.items()}


@pytest.fixture(scope="module")
def family(tiny_sd3):
    return family_with_lora(tiny_sd3)


@pytest.fixture
def tensors(family):
    return random_tensors(family)


def metadata(**more):
    return {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": ALPHA, **more}), "format": "pt"}


def diffusers_folder(family, tensors, folder):
    family.save_lora(folder, tensors, lora.config_of(family.transformer))
    return folder


def peft_folder(tensors, folder):
    """As peft's `save_pretrained` writes one."""
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return folder


def old_diffusers_file(tensors, file):
    """As diffusers wrote it before peft, with alphas as tensors."""
    renamed = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(lora.A).removesuffix(lora.B)
        renamed[f"transformer.{module}.lora.{'down' if name.endswith(lora.A) else 'up'}.weight"] = tensor
        renamed[f"transformer.{module}.alpha"] = torch.tensor(ALPHA)
    save_file(renamed, file)
    return file


@pytest.mark.parametrize("form", ["diffusers", "peft", "old diffusers", "bfloat16"])
def test_every_format_gives_the_same_adapter(family, tensors, tmp_path, form):
    if form == "diffusers":
        place = diffusers_folder(family, tensors, tmp_path)
    elif form == "peft":
        place = peft_folder(tensors, tmp_path / "peft")
    elif form == "old diffusers":
        place = old_diffusers_file(tensors, tmp_path / "old.safetensors")
    else:
        tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        place = tmp_path / "half.safetensors"
        save_file({f"transformer.{name}": tensor for name, tensor in tensors.items()}, place, metadata())
    file = find_adapter(str(place))
    assert file.rank == RANK
    start_from(family, Path(file.path), RANK, ALPHA, "attention")
    for adapter in (lora.TRAINED, lora.EMA):
        found = lora.tensors(family.transformer, adapter)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name].float()) for name in tensors)
        assert all(parameter.dtype == torch.float32 for parameter in found.values())


def test_diffusers_itself_reads_the_file_to_the_same_effect(family, tensors, tiny_sd3, tmp_path):
    start_from(
        family,
        diffusers_folder(family, tensors, tmp_path) / "pytorch_lora_weights.safetensors",
        RANK,
        ALPHA,
        "attention",
    )
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_sd3, text_encoder_3=None, tokenizer_3=None)
    pipeline.load_lora_weights(tmp_path)
    inputs = {
        "hidden_states": torch.ones(1, 4, 8, 8),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.ones(1, 3, 32),
        "pooled_projections": torch.ones(1, 32),
        "return_dict": False,
    }
    with torch.no_grad():
        ours, theirs = family.transformer(**inputs)[0], pipeline.transformer(**inputs)[0]
    torch.testing.assert_close(ours, theirs)


def saved(tensors, file, **more):
    save_file({f"transformer.{name}": tensor.contiguous() for name, tensor in tensors.items()}, file, metadata(**more))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rank", "set policy.lora_rank = 2$"),
        ("alpha", r"set policy.lora_alpha = 16.0$"),
        ("no alpha", r"set policy.lora_alpha = 4.0$"),
        ("targets", 'set policy.lora_targets = "all"$'),
        ("missing", "lacks 1 of .* tensors: transformer_blocks.0.attn.add_k_proj.lora_A.weight"),
        ("unexpected", "has 2 tensors for other modules: elsewhere.lora_A.weight"),
        ("bias", "more than a LoRA on the transformer.*: elsewhere.bias"),
        ("shape", "made for another model: transformer_blocks.0.attn.add_k_proj.lora_A.weight is"),
        ("nan", "holds numbers that are not finite"),
        ("dora", "is a DoRA adapter"),
        ("pattern", "was made with rank_pattern"),
        ("text encoder", "more than a LoRA on the transformer.*: text_encoder.layer"),
    ],
)
def test_what_does_not_fit_is_an_error_with_what_to_set(family, tensors, tiny_sd3, tmp_path, change, message):
    first = min(name for name in tensors if name.endswith(lora.A))
    file = tmp_path / "lora.safetensors"
    more = {"alpha": {"transformer.lora_alpha": 16}, "pattern": {"transformer.rank_pattern": {"to_q": 2}}}.get(
        change, {}
    )
    if change == "rank":
        tensors = random_tensors(family_with_lora(tiny_sd3, rank=2))
    elif change == "targets":
        tensors = random_tensors(family_with_lora(tiny_sd3, "all"))
    elif change == "missing":
        del tensors[first]
    elif change == "unexpected":
        tensors |= {f"elsewhere{end}": tensors[first].clone() for end in (lora.A, lora.B)}
    elif change == "bias":
        tensors["elsewhere.bias"] = torch.ones(1)
    elif change == "shape":
        tensors[first] = tensors[first][:, 1:]
    elif change == "nan":
        tensors[first][0, 0] = float("nan")
    elif change == "dora":
        tensors["elsewhere.lora_magnitude_vector"] = torch.ones(1)
    elif change == "text encoder":
        tensors = {f"text_encoder.layer{end}": tensors[first] for end in (lora.A, lora.B)}
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, metadata())
    if change == "no alpha":
        save_file({f"transformer.{name}": tensor for name, tensor in tensors.items()}, file)
    elif change != "text encoder":
        saved(tensors, file, **more)
    before = {name: tensor.clone() for name, tensor in lora.tensors(family.transformer, lora.TRAINED).items()}
    with pytest.raises(Mistake, match=message):
        start_from(family, file, RANK, ALPHA, "attention")
    after = lora.tensors(family.transformer, lora.TRAINED)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_file_is_found_at_a_checkpoint_and_at_a_run(tensors, tmp_path):
    for step in (4, 12):
        folder = tmp_path / "checkpoints" / f"step-{step:06d}" / "adapter"
        folder.mkdir(parents=True)
        saved(tensors, folder / "pytorch_lora_weights.safetensors")
        (folder.parent / "manifest.json").write_text("{}")
    (tmp_path / "checkpoints" / "step-000099").mkdir()
    newest = tmp_path / "checkpoints" / "step-000012"
    for place in (tmp_path, newest, newest / "adapter", newest / "adapter" / "pytorch_lora_weights.safetensors"):
        found = find_adapter(str(place))
        assert found.path == str(newest / "adapter" / "pytorch_lora_weights.safetensors")
        assert (found.rank, found.alpha) == (RANK, ALPHA)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\n", "no lora"])
def test_what_is_no_lora_is_an_error_that_says_so(tmp_path, content):
    file = tmp_path / "x.safetensors"
    if content == "no lora":
        save_file({"weight": torch.ones(1)}, file)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"no such file or folder|cannot be read as safetensors|holds no LoRA"):
        find_adapter(str(file))
