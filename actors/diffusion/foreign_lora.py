"""Reads a LoRA that was written anywhere into the adapter that is trained here: all of it, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from actors.diffusion import lora
from actors.diffusion.adapter_file import PREFIX, config_of
from actors.diffusion.family import Family
from actors.messages import Adapter, sha256_of
from actors.mistake import Mistake

ENDINGS = ((r"\.lora(_A(\.\w+)?|_down|\.down)\.weight$", lora.A), (r"\.lora(_B(\.\w+)?|_up|\.up)\.weight$", lora.B))
NAMED = 3  # keys in an error


def read_lora(pipeline: DiffusionPipeline, file: Path) -> tuple[dict[str, Tensor], float]:
    """(tensors by the name that travels here, alpha) of a LoRA's file, whatever format the pipeline reads.

    Raises Mistake for what is no plain LoRA of one rank and alpha on the transformer.
    """
    with safe_open(file, framework="pt") as opened:
        found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
        config = config_of(file, opened.metadata() or {})
    _check_plain(file, found, config)
    # alphas come beside the tensors from some pipelines; `lora_state_dict` changes the dict that it is given
    state, *beside = type(pipeline).lora_state_dict(dict(found), return_lora_metadata=True, return_alphas=True)
    alphas = dict(beside[0] or {}) if len(beside) == 2 else {}
    alphas |= {name: float(state.pop(name)) for name in list(state) if name.endswith(".alpha")}
    tensors = {_here(name): tensor for name, tensor in state.items()}
    if others := [name for name in tensors if name.startswith("text_encoder") or not name.endswith((lora.A, lora.B))]:
        raise Mistake(
            f"{file} holds more than a LoRA on the transformer, which is all that is trained: {_some(others)}"
        )
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith(lora.A)}
    if len(ranks) != 1:
        raise Mistake(f"{file} has layers of different ranks ({sorted(ranks)}); one rank is trained: policy.lora_rank")
    stated = {float(config["lora_alpha"])} if "lora_alpha" in config else {float(alpha) for alpha in alphas.values()}
    if len(stated) > 1:
        raise Mistake(f"{file} has layers of different alphas ({sorted(stated)}); one is trained: policy.lora_alpha")
    return tensors, stated.pop() if stated else float(ranks.pop())


@torch.no_grad()
def start_from(family: Family, file: Path, rank: int, alpha: float, targets: str) -> None:
    """Puts a LoRA into the attached adapter and its average. Raises Mistake, with the values to set, if it does not fit."""
    tensors, its_alpha = read_lora(family.pipeline, file)
    its_rank = _rank(tensors)
    wrong = [f"policy.lora_rank = {its_rank}"] if its_rank != rank else []
    wrong += [f"policy.lora_alpha = {its_alpha}"] if not math.isclose(its_alpha, alpha) else []
    trained = lora.tensors(family.transformer, lora.TRAINED)
    if tensors.keys() != trained.keys():
        fits = [name for name in family.lora_targets if name != targets and _covers(family.lora_targets[name], tensors)]
        wrong += [f'policy.lora_targets = "{name}"' for name in fits[:1]]
    if wrong:
        raise Mistake(f"policy.init_adapter: {file} does not fit the recipe: set {', '.join(wrong)}")
    if missing := trained.keys() - tensors.keys():
        raise Mistake(f"policy.init_adapter: {file} lacks {len(missing)} of {len(trained)} tensors: {_some(missing)}")
    if unexpected := tensors.keys() - trained.keys():
        raise Mistake(
            f"policy.init_adapter: {file} has {len(unexpected)} tensors for other modules: {_some(unexpected)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != trained[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(trained[name].shape)}"
            raise Mistake(f"policy.init_adapter: {file} was made for another model: {name} is {shapes}")
        if not tensor.isfinite().all():
            raise Mistake(f"policy.init_adapter: {file}: {name} holds numbers that are not finite")
    for name, tensor in tensors.items():
        for adapter in (lora.TRAINED, lora.EMA):
            lora.tensors(family.transformer, adapter)[name].copy_(tensor)


def as_adapter(pipeline: DiffusionPipeline, file: Path) -> Adapter:
    """The LoRA of a file as a message, to be merged. Raises Mistake."""
    tensors, alpha = read_lora(pipeline, file)
    arrays = lora.as_numpy(tensors)
    return Adapter(0, _rank(tensors), alpha, (), sha256_of(arrays), arrays)


def _rank(tensors: Mapping[str, Tensor]) -> int:
    return next(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(lora.A))


def _check_plain(file: Path, found: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    kinds = {"DoRA": ("dora", "lora_magnitude"), "LoKr": (".lokr_",), "LoHa": (".hada_",)}
    for kind, marks in kinds.items():
        if any(mark in name for name in found for mark in marks) or (kind == "DoRA" and config.get("use_dora")):
            raise Mistake(f"{file} is a {kind} adapter: a plain LoRA is trained here")
    for option in ("rank_pattern", "alpha_pattern", "use_rslora"):
        if config.get(option):
            raise Mistake(
                f"{file} was made with {option}: a LoRA of one rank, and scaled by alpha / rank, is trained here"
            )


def _here(name: str) -> str:
    """The name that travels here, of a name in any of the formats."""
    name = PREFIX.sub("", name)
    for ending, ours in ENDINGS:
        name = re.sub(ending, ours, name)
    return name


def _covers(targets: tuple[str, ...], tensors: Iterable[str]) -> bool:
    """Whether these targets are those that the tensors are of: each module is one of them, and each of them has a module."""
    modules = {name.removesuffix(lora.A) for name in tensors if name.endswith(lora.A)}
    hit = {target for target in targets for module in modules if f".{module}".endswith(f".{target}")}
    return hit == set(targets) and all(any(f".{module}".endswith(f".{t}") for t in targets) for module in modules)


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:NAMED]) + (" ..." if len(first) > NAMED else "")
