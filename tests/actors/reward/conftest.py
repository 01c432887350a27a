"""A tiny LLaVA, made once."""

from pathlib import Path

import pytest
import torch

from toy.random_models.vlms import make_tiny_llava


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_llava(tmp_path_factory.mktemp("tiny_llava"))
