"""Whether the weights in a folder are those of its model's classes: every tensor there, none too many, each of the right shape.

The libraries draw at random what a file lacks, and skip what they do not know. Here the classes are built on torch's meta device,
and the headers of the files are put through the libraries' own renaming of keys: nothing is read but headers.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from actors.mistake import Mistake
from actors.models.files import AGAIN, Stored, read_object, tensors_in, tensors_of
from actors.models.folder import pipeline_parts

META = torch.device("meta")
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
BUFFERS = (r"(^|\.)position_ids$", r"(^|\.)rotary_emb\.inv_freq$")
"""What older files hold beside weights, and classes compute by themselves."""
FOREIGN = {
    "base_model.model.": "peft wrote the model without merging its adapter: save what merge_and_unload returns",
    "module.": "it was saved from within a parallel wrapper: save the model inside",
    "_orig_mod.": "it was saved from within torch.compile: save the model inside",
    "model.diffusion_model.": "it is a single file of another layout: take the model's folder of diffusers",
}
"""What foreign names begin with, and what to do about it."""


@dataclass(frozen=True)
class Misfit:
    """Names that the class has and the files lack, that the files have and the class does not know, and those of another shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


def check_pipeline_weights(folder: Path, ignored: Iterable[str]) -> None:
    """Raises Mistake unless the weights of every model in a pipeline's folder fit; `ignored` are patterns of names too many."""
    for part, (library, kind) in pipeline_parts(folder).items():
        found = getattr(importlib.import_module(library), kind, None)  # a judge needs no diffusers
        if found is None:
            raise Mistake(f"{folder / part} is a {kind}, a class which the installed {library} does not know")
        if issubclass(found, nn.Module):
            check_part(folder / part, found, ignored)


def check_vlm_weights(folder: Path, ignored: Iterable[str]) -> None:
    """Raises Mistake unless the weights of a vision-language model fit, and those of an adapter that lies beside them."""
    kind = _class_of(folder, transformers.AutoModelForImageTextToText, "vision-language model")
    model = check_part(folder, kind, ignored)
    if (folder / "adapter_config.json").is_file():
        _check_adapter(folder, model)


def check_dual_encoder_weights(folder: Path) -> None:
    """Raises Mistake unless the weights of a CLIP or SigLIP fit."""
    check_part(folder, _class_of(folder, transformers.AutoModel, "model with two encoders"), ())


def _class_of(folder: Path, auto: Any, what: str) -> Any:
    try:
        return auto._model_mapping[type(transformers.AutoConfig.from_pretrained(folder))]
    except Exception as error:
        raise _no_config(folder, what, error) from error


def check_part(folder: Path, kind: Any, ignored: Iterable[str]) -> nn.Module:
    """The model of the class `kind` in a component's folder, on the meta device. Raises Mistake unless its weights fit."""
    stored = tensors_of(folder)
    tensors = {name: on_meta(tensor) for name, tensor in stored.items()}
    of_diffusers = "_class_name" in read_object(folder / "config.json")
    try:
        model, misfit = (_built_by_diffusers if of_diffusers else _built_by_transformers)(folder, kind, tensors)
    except Mistake:
        raise
    except Exception as error:
        raise _no_config(folder, kind.__name__, error) from error
    patterns = [re.compile(pattern) for pattern in (*BUFFERS, *ignored)]
    unexpected = tuple(name for name in misfit.unexpected if not any(pattern.search(name) for pattern in patterns))
    refuse(folder, type(model).__name__, stored, Misfit(misfit.missing, unexpected, misfit.mismatched))
    return model


def _no_config(folder: Path, kind: str, error: Exception) -> Mistake:
    """Whatever a class says, in many lines perhaps, of a config that it cannot read."""
    return Mistake(f"{folder / 'config.json'} is no config of a {kind}: {' '.join(str(error).split())}")


def on_meta(stored: Stored) -> Tensor:
    """A tensor of the type and shape of a stored one, without memory."""
    return torch.empty(stored.shape, dtype=DTYPES[stored.dtype], device=META)


def refuse(folder: Path, kind: str, stored: Mapping[str, Stored], misfit: Misfit) -> None:
    """Raises Mistake for what does not fit, with the file and the first names."""
    if not (misfit.missing or misfit.unexpected or misfit.mismatched):
        return
    files = {tensor.file for tensor in stored.values()}
    file = files.pop() if len(files) == 1 else folder
    for prefix, advice in FOREIGN.items():
        if any(name.startswith(prefix) for name in misfit.unexpected):
            raise Mistake(f"the names in {file} begin with {prefix!r}, which a {kind} does not know: {advice}")
    said = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        for names, what in (
            (misfit.missing, "missing"),
            (misfit.unexpected, "unknown"),
            (misfit.mismatched, "of another shape"),
        )
        if names
    ]
    raise Mistake(
        f"the weights in {file} are not those of a {kind}: {'; '.join(said)}. {AGAIN.capitalize()}, or mend its config.json"
    )


def _built_by_transformers(folder: Path, kind: Any, tensors: dict[str, Tensor]) -> tuple[nn.Module, Misfit]:
    config = transformers.AutoConfig.from_pretrained(folder)
    model, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        device_map={"": META},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return model, _misfit(info)


def _built_by_diffusers(folder: Path, kind: Any, tensors: dict[str, Tensor]) -> tuple[nn.Module, Misfit]:
    with META:
        model = kind.from_config(kind.load_config(folder))
    found, expected = dict(tensors), model.state_dict()
    model._fix_state_dict_keys_on_load(found)  # as `from_pretrained` does
    known = kind._keys_to_ignore_on_load_unexpected or ()
    return model, Misfit(
        missing=tuple(sorted(expected.keys() - found.keys())),
        unexpected=tuple(
            name for name in sorted(found.keys() - expected.keys()) if not any(re.search(key, name) for key in known)
        ),
        mismatched=tuple(
            _shapes(name, found[name].shape, tensor.shape)
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ),
    )


def _check_adapter(folder: Path, model: Any) -> None:
    from peft import PeftConfig

    stored = tensors_in(folder / "adapter_model.safetensors")
    info = model.load_adapter(
        peft_config=PeftConfig.from_pretrained(folder),
        adapter_state_dict={name: on_meta(tensor) for name, tensor in stored.items()},
        low_cpu_mem_usage=True,
        ignore_mismatched_sizes=True,
    )
    refuse(folder, "LoRA of its config", stored, _misfit(info.to_dict()))


def _misfit(info: Mapping[str, Any]) -> Misfit:
    """From what transformers says of a loading."""
    return Misfit(
        tuple(sorted(info["missing_keys"])),
        tuple(sorted(info["unexpected_keys"])),
        tuple(_shapes(*mismatch) for mismatch in sorted(info["mismatched_keys"])),
    )


def _shapes(name: str, found: Iterable[int], wanted: Iterable[int]) -> str:
    return f"{name} ({list(found)} for {list(wanted)})"
