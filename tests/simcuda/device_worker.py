"""A worker on the simulated device: it takes the GPU that it holds, and no other, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.diffusion.options import ImageModelOptions
from actors.policy.objectives.awm_options import AwmOptions
from actors.process import Process
from actors.rollout.actor import RolloutActor
from actors.rollout.options import GeneratorSettings
from toy.random_models.sd3 import make_tiny_sd3


@pytest.mark.parametrize(("share", "device", "dtype"), [(0.5, "cuda", "bfloat16"), (0.0, "cpu", "float32")])
def test_a_worker_runs_where_its_share_says_and_tells_it(tmp_path: Path, share: float, device: str, dtype: str) -> None:
    given = GeneratorSettings(str(make_tiny_sd3(tmp_path)), AwmOptions(), ImageModelOptions(), 2)
    said = RolloutActor(Process(1, share), given).info()
    assert torch.device(said["device"]).type == device
    assert said["dtype"] == dtype
    assert said.get("gpu") == ("make-believe" if share else None)
    assert said.get("capability") == ("9.0" if share else None)
