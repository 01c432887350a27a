"""The budget of a forward pass, and bytes as the numbers that a model sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText, CLIPImageProcessorPil

import actors.vlm.frozen
from actors.mistake import Mistake
from actors.vlm.family import load_vlm
from actors.vlm.frozen import FrozenVlm, byte_values, look_up, plain_head, rows_at_once

QUERY = "Describe this image in detail."


@pytest.fixture(scope="module")
def qwen(tiny_vlms: dict[str, Path]) -> FrozenVlm:
    return load_vlm(str(tiny_vlms["qwen3_vl"]), torch.float32, torch.device("cpu"))  # type: ignore[return-value]


def passes(vlm: FrozenVlm, count: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward pass gets."""
    monkeypatch.setitem(actors.vlm.frozen.TOKENS_AT_ONCE, "cpu", budget)
    batch = vlm.batch(np.zeros((count, 32, 32, 3), np.uint8), QUERY, "a red circle", False)
    rows: list[int] = []
    inner = vlm.model.model.forward

    def counted(**inputs: torch.Tensor) -> object:
        rows.append(len(inputs["input_ids"]))
        return inner(**inputs)

    monkeypatch.setattr(vlm.model.model, "forward", counted)
    assert len(vlm.states(batch)) == count
    return rows


def row_tokens(vlm: FrozenVlm) -> int:
    """Tokens of a row, and a quarter of its 8 x 8 patches."""
    length = vlm.batch(np.zeros((1, 32, 32, 3), np.uint8), QUERY, "a red circle", False).inputs["input_ids"].shape[1]
    return length + 8 * 8 // 4


@pytest.mark.parametrize(
    ("fit", "expected"), [(16, [16]), (15, [8, 8]), (8, [8, 8]), (7, [6, 6, 4]), (1, [1] * 16), (0.5, [1] * 16)]
)
def test_a_group_takes_as_few_and_as_even_passes_as_the_budget_allows(
    qwen: FrozenVlm, monkeypatch: pytest.MonkeyPatch, fit: float, expected: list[int]
):
    assert passes(qwen, 16, int(fit * row_tokens(qwen)), monkeypatch) == expected


def test_one_token_less_than_a_group_needs_is_one_pass_more(qwen: FrozenVlm, monkeypatch: pytest.MonkeyPatch):
    assert passes(qwen, 6, 6 * row_tokens(qwen) - 1, monkeypatch) == [3, 3]


def test_on_a_gpu_a_group_of_16_images_of_1024_px_is_one_pass_of_qwen3_vl():
    image, patches, text = 32 * 32, 64 * 64, 325
    assert rows_at_once(16, image + text + patches // 4, "cuda") == 16


def test_the_image_processor_without_torchvision_is_asked_for_even_where_there_is_torchvision(
    tiny_vlms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    load = AutoImageProcessor.from_pretrained

    def spy(path: str, backend: str) -> object:
        asked.append(backend)
        return load(path, backend=backend)

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", spy)
    load_vlm(str(tiny_vlms["smolvlm"]), torch.float32, torch.device("cpu"))
    assert asked == ["pil"]


@pytest.mark.parametrize(
    "options", [{}, {"do_rescale": False}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False}]
)
def test_a_byte_becomes_what_the_processor_makes_of_it(options: dict[str, bool]):
    same_size = {"do_resize": False, "do_center_crop": False}
    processor = CLIPImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], **same_size, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9), dtype=np.uint8)
    own = processor(images=list(pixels), input_data_format="channels_first", return_tensors="pt").pixel_values
    values = look_up(torch.from_numpy(pixels), byte_values(processor))
    assert values.dtype == torch.float32
    assert torch.equal(values, own.float())


def with_bias(head: nn.Linear) -> nn.Module:
    changed = nn.Linear(head.in_features, head.out_features)
    changed.weight = head.weight
    return changed


def with_lora(head: nn.Linear) -> nn.Module:
    return LoraLinear(head, "default", LoraConfig(r=2), r=2, lora_alpha=4)


@pytest.mark.parametrize(
    ("change", "told"), [(with_bias, "has a bias, but"), (with_lora, r"is a peft\.tuners\.lora\.layer\.Linear, but")]
)
def test_a_head_that_is_more_than_a_matrix_is_refused(
    tiny_vlms: dict[str, Path], change: Callable[[nn.Linear], nn.Module], told: str
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlms["qwen3_vl"])
    assert plain_head(model, "its/judge") is model.lm_head.weight
    model.lm_head = change(model.lm_head)
    with pytest.raises(Mistake, match=rf"model = 'its/judge': its output head {told}"):
        plain_head(model, "its/judge")


def test_a_cap_on_the_logits_is_refused(tiny_vlms: dict[str, Path]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlms["qwen3_vl"])
    model.config.get_text_config().final_logit_softcapping = 30.0
    with pytest.raises(Mistake, match=r"final_logit_softcapping = 30\.0"):
        plain_head(model, "its/judge")
