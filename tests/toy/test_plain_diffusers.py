"""The lines of plain diffusers in docs/using_a_run.md, as they stand there, on the toy model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from actors.diffusion import lora

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "using_a_run.md"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint's adapter for the miniature world's model: random, but not small."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        ROOT / "toy/models/image", text_encoder_3=None, tokenizer_3=None
    )
    lora.attach(pipeline.transformer, 4, 8.0, ("to_q", "to_k", "to_v"), seed=0)
    generator = torch.Generator().manual_seed(0)
    layers = {
        name: 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in lora.tensors(pipeline.transformer, lora.TRAINED).items()
    }
    folder = tmp_path / "runs/mine/checkpoints/step-000250/adapter"
    metadata = lora.config_of(pipeline.transformer)
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
    )
    return folder


def test_the_lines_of_plain_diffusers_run_as_they_stand(checkpoint, tmp_path, monkeypatch):
    (lines,) = re.findall(r"```python\n(import torch\nfrom diffusers.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").symlink_to(ROOT / "toy")
    names: dict = {}
    exec(lines, names)
    image = np.asarray(names["image"])
    assert image.shape == (32, 32, 3)
    assert (tmp_path / "red_circle.png").is_file()
    names["pipe"].unload_lora_weights()
    exec(next(line for line in lines.splitlines() if line.startswith("image =")), names)
    assert np.abs(np.asarray(names["image"]).astype(int) - image).max() > 0, "the adapter changes the picture"
