"""What a VLM sees of an image and what its passes need, against the VLMs themselves: tiny ones, and single layers of full width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from actors.vlm import likelihood
from actors.vlm.family import load_vlm
from pipelines.preflight.memory import architectures
from pipelines.preflight.memory import judge as memory
from pipelines.preflight.memory.judge import Scoring, Seen, pass_bytes, rows_at_once, seen
from pipelines.preflight.memory.models import judge
from tests.support.live_bytes import LiveBytes
from toy.random_models.vlms import TINY_VLMS

SIZES = [(32, 32), (16, 40), (24, 8), (64, 64)]


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "idefics3", "smolvlm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY_VLMS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_patches_are_those_that_the_vlm_is_given(folder: Path, size: tuple[int, int]) -> None:
    vlm: Any = load_vlm(str(folder), torch.float32, torch.device("cpu"))
    batch = vlm.batch(np.zeros((1, *size, 3), np.uint8), "a", "red", False)
    tokens = int((batch.inputs["input_ids"] == vlm.chat.image_token_id).sum())
    vision = vlm.model.config.vision_config
    values = 3 * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)
    patches = batch.inputs["pixel_values"].numel() // values
    found = seen(judge(str(folder)), *size, None)
    assert found.patches == patches
    if vlm.model.config.model_type in ("idefics3", "smolvlm"):  # text around each frame is counted with it
        assert tokens <= found.tokens <= tokens + 16 * (patches // (vision.image_size // vision.patch_size) ** 2)
    else:
        assert found.tokens == tokens


@pytest.mark.parametrize("pixels", [8**2, 300, 500])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_budget_of_pixels(kind: str, pixels: int, tmp_path: Path) -> None:
    folder = TINY_VLMS[kind](tmp_path / kind)
    vlm: Any = load_vlm(str(folder), torch.float32, torch.device("cpu"), image_pixels=pixels)
    for size in SIZES:
        batch = vlm.batch(np.zeros((1, *size, 3), np.uint8), "a", "red", False)
        tokens = int((batch.inputs["input_ids"] == vlm.chat.image_token_id).sum())
        assert seen(judge(str(folder)), *size, pixels).tokens == tokens


def test_known_judges_see_a_megapixel_as_published() -> None:
    """docs/models.md: an image of 1024 px is 1,024 tokens for Qwen3-VL and 1,369 for Qwen2.5-VL."""
    assert seen(judge("Qwen/Qwen3-VL-8B-Instruct"), 1024, 1024, None) == Seen(1024, 4096)
    assert seen(judge("Qwen/Qwen2.5-VL-7B-Instruct"), 1024, 1024, None) == Seen(1369, 5476)
    assert seen(judge("Qwen/Qwen3-VL-8B-Instruct"), 1024, 1024, 512 * 512) == Seen(256, 1024)


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"), [(16, 1349, 16), (32, 1349, 16), (64, 1349, 16), (3, 60_000, 1)]
)
def test_rows_of_a_pass(rows: int, tokens: int, expected: int) -> None:
    """1,349 tokens and 4,096 patches count as 2,373, of which 20 fit: 32 rows go as two passes of 16, 64 as four."""
    assert rows_at_once(tokens, 4096, rows, gpu=True) == expected


NARROW_TEXT = {"num_hidden_layers": 2, "vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2}
SHALLOW_VISION = {
    "qwen3-vl-8b": {"depth": 2, "deepstack_visual_indexes": [0]},
    "qwen2.5-vl-7b": {"depth": 2, "fullatt_block_indexes": [1]},
}


@pytest.mark.parametrize("name", SHALLOW_VISION)
def test_the_widest_layer_of_either_tower(name: str) -> None:
    """Shallow models of full vision width, and a language model an eighth as wide, in bfloat16: no less than counted, and not much more."""
    description = architectures.load(name)
    config = description["config"]
    text = {
        key: value // 8 if key in ("hidden_size", "intermediate_size") else value
        for key, value in config["text_config"].items()
    }
    text |= NARROW_TEXT | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": text["hidden_size"] // 4}
    half, third = text["head_dim"] // 2, text["head_dim"] // 6
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half - 2 * third, third, third],
    }
    vision = {**config["vision_config"], **SHALLOW_VISION[name], "out_hidden_size": text["hidden_size"]}
    kind = getattr(transformers, description["class"])
    made = kind._from_config(
        kind.config_class(**{**config, "text_config": text, "vision_config": vision}), attn_implementation="sdpa"
    )
    model = made.to(torch.bfloat16).eval()
    grid, length = torch.tensor([[1, 16, 16]] * 2), 200
    patches, values = 2 * 256, 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    pixels = torch.randn(patches, values, dtype=torch.bfloat16)
    known = [*model.parameters(), *model.buffers(), pixels]
    with torch.no_grad(), LiveBytes(known) as tower:
        model.model.visual(pixels, grid_thw=grid)
    said = 2 * patches * memory.VISION_WIDTHS * vision["hidden_size"]
    assert 0.7 * said < tower.peak < said
    states = torch.randn(2, length, text["hidden_size"], dtype=torch.bfloat16)
    with torch.no_grad(), LiveBytes([*known, states]) as language:
        positions = torch.arange(length).expand(3, 2, length)
        model.model.language_model(inputs_embeds=states, position_ids=positions, use_cache=False)
    said = 2 * 2 * length * (memory.TEXT_INNER * text["intermediate_size"] + memory.TEXT_WIDTHS * text["hidden_size"])
    assert 0.6 * said < language.peak < said


def test_a_whole_pass_of_a_tiny_judge_takes_no_more_than_was_said(tmp_path: Path) -> None:
    """Sixteen images through the likelihood itself, in passes: weights are known, everything else counts."""
    folder = TINY_VLMS["qwen3_vl"](tmp_path / "judge")
    vlm: Any = load_vlm(str(folder), torch.float32, torch.device("cpu"))
    images = np.zeros((16, 32, 32, 3), np.uint8)
    caption = "a red circle left of a blue square"
    with LiveBytes([*vlm.model.parameters(), *vlm.model.buffers()]) as live:
        log_probs = likelihood.token_log_probs(vlm, images, "Describe this image in detail.", caption)
    task = Scoring(16, 32, 32, *2 * (log_probs.log_probs_KT.shape[1],), element=4, gpu=False, chunk_tokens=4096)
    said = pass_bytes(judge(str(folder)), task)
    assert live.peak < 1.1 * said
    assert live.peak > 0.1 * said
