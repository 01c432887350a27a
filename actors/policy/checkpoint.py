"""The policy's share of a checkpoint: LoRA, moving average and optimiser in one torch file, and the LoRA as diffusers reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from peft.utils import get_peft_model_state_dict

from actors.diffusion import lora
from actors.policy.learner import Learner

STATE = "policy.pt"
ADAPTER = "adapter"


def save_state(learner: Learner, folder: Path) -> dict[str, str]:
    """Writes `policy.pt` and `adapter/`; returns sha256 by file name, relative to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(learner.state(), folder / STATE)
    layers = get_peft_model_state_dict(learner.transformer, adapter_name=lora.TRAINED)
    learner.family.save_lora(folder / ADAPTER, layers, learner.transformer.peft_config[lora.TRAINED].to_dict())
    files = [folder / STATE, *sorted((folder / ADAPTER).iterdir())]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load_state(learner: Learner, folder: Path) -> int:
    """Restores training; returns the step that it continues from."""
    learner.restore(torch.load(folder / STATE, weights_only=True, map_location="cpu"))
    return learner.step
