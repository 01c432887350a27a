"""Every tiny VLM, made once."""

from pathlib import Path

import pytest
import torch

from actors.vlm.family import Vlm, load_vlm
from toy.random_models.vlms import TINY_VLMS


@pytest.fixture(scope="session")
def tiny_vlms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    return {case: make(tmp_path_factory.mktemp(case.replace(" ", "_"))) for case, make in TINY_VLMS.items()}


@pytest.fixture(scope="session")
def tiny_llava(tiny_vlms: dict[str, Path]) -> Path:
    return tiny_vlms["llava"]


@pytest.fixture(scope="session")
def llava(tiny_llava: Path) -> Vlm:
    return load_vlm(str(tiny_llava), torch.float32, torch.device("cpu"))
