"""Writes what was trained for others to read: a LoRA file, or a whole pipeline with the LoRA in its weights."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from actors.diffusion.adapter_file import WEIGHTS
from actors.diffusion.family import LoadOptions, load_family
from actors.diffusion.foreign_lora import as_adapter
from actors.diffusion.lora import Merger
from actors.models.path import PIPELINE_MARKER

HERE = "_name_or_path"  # where a part was read from, which says nothing on another machine


def write_lora(file: Path, folder: Path, dtype: str) -> None:
    """Writes the LoRA of a checkpoint's file where `load_lora_weights(folder)` finds it. "auto": in its own type of number."""
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    if dtype != "auto":
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata)


def write_merged(
    model: str, file: Path, folder: Path, dtype: str, max_sequence_length: int, family: str | None = None
) -> None:
    """Writes the pipeline with all its parts for `from_pretrained(folder)`, the LoRA in the transformer's weights.

    "auto": in the type of number in which the transformer is stored. W_0 + (alpha / rank) B A is summed in float32 and rounded once.
    """
    chosen = _stored_type(model) if dtype == "auto" else getattr(torch, dtype)
    options = LoadOptions(torch.device("cpu"), chosen, decoder=True, max_sequence_length=max_sequence_length)
    pipeline = load_family(model, options, family).pipeline
    Merger(pipeline.transformer).load(as_adapter(pipeline, file))
    pipeline.vae.to(chosen)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for file in (folder / PIPELINE_MARKER, *folder.glob("*/config.json")):
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop(HERE, None) is not None:
            file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def arguments_to_open(model: str) -> tuple[str, ...]:
    """Arguments for `from_pretrained`: the type of number and, as None, parts that it asks for and the folder does not have.

    Without the type, diffusers' parts would be float32 and those of transformers as stored. Nothing for a model that is not on this disk.
    """
    if not Path(model, PIPELINE_MARKER).is_file():
        return ()
    index = DiffusionPipeline.load_config(model)
    optional = getattr(diffusers, index["_class_name"])._optional_components
    absent = [name for name, part in index.items() if part == [None, None] and name not in optional]
    return f"dtype={_stored_type(model)}", *(f"{name}=None" for name in absent)


def _stored_type(model: str) -> torch.dtype:
    """Of the transformer's weights in a local folder; bfloat16 for a name on the hub."""
    for file in sorted(Path(model, "transformer").glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(next(iter(opened.keys()))).dtype
    return torch.bfloat16
