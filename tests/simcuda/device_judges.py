"""Every kind of judge on the device, in bfloat16: it scores a group, with little to wait for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.messages import Prompt
from actors.reward.kinds.promptecho import PromptEchoOptions
from tests.support.simcuda.events import watch
from toy.random_models.vlms import TINY_VLMS

PROMPT = Prompt("p", "a red circle left of a blue square")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
MOST = {
    "llava": 3,
    "qwen2_5_vl": 2,
    "qwen3_vl": 4,
    "qwen3_vl_moe": 4,
    "idefics3": 6,
    "smolvlm": 6,
}  # waits, of two layers
CLOSE = 0.3  # nats per token between bfloat16 and float32, of random weights


@pytest.mark.parametrize("kind", TINY_VLMS)
def test_a_judge_scores_on_the_device_as_on_the_cpu(kind: str, tmp_path: Path):
    folder = str(TINY_VLMS[kind](tmp_path))
    here, there = (PromptEchoOptions(model=folder, log_gain=True).on(device).load() for device in ("cpu", "cuda"))
    assert {parameter.device.type for parameter in there.vlm.model.parameters()} == {"cuda"}  # type: ignore[attr-defined]
    assert there.vlm.lm_head.dtype == torch.bfloat16
    scores = there.score(IMAGES, PROMPT)
    np.testing.assert_allclose(scores.rewards_K, here.score(IMAGES, PROMPT).rewards_K, atol=CLOSE)
    with watch() as log:
        assert there.score(IMAGES, PROMPT).rewards_K == scores.rewards_K
    ours = [event.kind for event in log.blocking() if event.line.startswith("actors/")]
    assert ours == ["wait"], log  # the scores; what transformers' models wait for is counted below
    assert len(log.blocking()) <= MOST[kind.partition(" ")[0]], log
