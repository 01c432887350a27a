"""The policy's share of a checkpoint: LoRA, moving average and optimiser in one torch file, and the LoRA as diffusers reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.numpy import load_file, save_file

from actors.diffusion import lora
from actors.messages import Adapter
from actors.policy.learner import Learner

STATE = "policy.pt"
ADAPTER = "adapter"
VERSIONS = "versions"


def save_state(learner: Learner, folder: Path, adapters: tuple[Adapter, ...]) -> dict[str, str]:
    """Writes `policy.pt`, `adapter/` and `versions/`, the adapters that work in flight needs; returns sha256 by relative file name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(learner.state(), folder / STATE)
    layers = {name: tensor.detach() for name, tensor in learner.trained.items()}
    learner.family.save_lora(folder / ADAPTER, layers, lora.config_of(learner.transformer))
    (folder / VERSIONS).mkdir()
    for adapter in adapters:
        save_file(dict(adapter.tensors), folder / VERSIONS / f"{adapter.policy_version:06d}.safetensors")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load_state(learner: Learner, folder: Path) -> int:
    """Restores training; returns the step that it continues from."""
    learner.restore(torch.load(folder / STATE, weights_only=True, map_location="cpu"))
    return learner.step


def load_adapter(learner: Learner, folder: Path, policy_version: int) -> Adapter:
    """An adapter of an earlier version, as it was exported then."""
    return learner.adapter(policy_version, load_file(folder / VERSIONS / f"{policy_version:06d}.safetensors"))
