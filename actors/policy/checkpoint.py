"""The policy's files of a checkpoint, as bytes in memory: whoever holds them writes them, to a disk or to a bucket.

`policy.safetensors` has all that training continues from, whole, so that any number of ranks can take it up; `adapter/` the LoRA
that draws, as diffusers reads it; `versions/` the adapters of earlier versions that work in flight may still need.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from actors.diffusion import lora
from actors.messages import Adapter
from actors.policy.learner import Learner

STATE = "policy.safetensors"
ADAPTER = "adapter/pytorch_lora_weights.safetensors"


def version_file(policy_version: int) -> str:
    """The name of the file that holds this version's adapter."""
    return f"versions/{policy_version:06d}.safetensors"


def snapshot(learner: Learner, adapters: tuple[Adapter, ...]) -> dict[str, np.ndarray]:
    """All files, uint8 [bytes] by name, on rank 0; nothing on the others, which are called all the same."""
    state = learner.state()
    if learner.engine.rank > 0:
        return {}
    files = {STATE: serialise(state), ADAPTER: _diffusers_file(learner, state)}
    files |= {version_file(adapter.policy_version): serialise(dict(adapter.tensors)) for adapter in adapters}
    return {name: np.frombuffer(content, np.uint8) for name, content in files.items()}


def load(learner: Learner, files: Mapping[str, np.ndarray]) -> int:
    """Restores training; returns the step that it continues from. Raises ValueError if it is of another adapter layout."""
    learner.restore(parse(files[STATE].tobytes()))
    return learner.step


def load_adapter(learner: Learner, files: Mapping[str, np.ndarray], policy_version: int) -> Adapter:
    """An adapter of an earlier version, as it was exported then."""
    return learner.adapter(policy_version, parse(files[version_file(policy_version)].tobytes()))


def _diffusers_file(learner: Learner, state: Mapping[str, np.ndarray]) -> bytes:
    draws = learner.objective.drawn_by
    layers = {name: torch.from_numpy(state[f"{draws}/{name}"]) for name in learner.engine.trained}
    with TemporaryDirectory() as folder:  # diffusers writes files only
        learner.family.save_lora(Path(folder), layers, lora.config_of(learner.engine.transformer))
        return (Path(folder) / Path(ADAPTER).name).read_bytes()
