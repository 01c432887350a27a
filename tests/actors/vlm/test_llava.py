"""What is LLaVA's own: one square of fixed size, and which towers it takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from actors.vlm.family import load_vlm
from actors.vlm.llava import Llava

QUERY = "Describe this image in detail."


def draw(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 3])
def test_the_channels_of_an_image_as_small_as_their_number_are_not_mistaken(tiny_llava: Path, llava: Llava, size: int):
    images = draw(2, size)
    own = LlavaProcessor.from_pretrained(tiny_llava).image_processor
    expected = own(images=[Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    assert torch.equal(llava.batch(images, QUERY, "red", False).inputs["pixel_values"], expected)


@pytest.mark.parametrize("size", [8, 16, 50])
def test_an_image_is_as_many_tokens_whatever_its_size(llava: Llava, size: int):
    batch = llava.batch(draw(1, size), QUERY, "red", False)
    tokens = (16 // 8) ** 2
    assert batch.inputs["input_ids"][0].tolist().count(llava.model.config.image_token_id) == tokens
    assert batch.answer_start == llava.batch(None, QUERY, "red", False).answer_start + tokens


def test_a_pixtral_tower_is_an_error_before_any_weight_is_read(tmp_path: Path):
    config = {"model_type": "llava", "vision_config": {"model_type": "pixtral"}, "text_config": {"model_type": "llama"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Pixtral"):
        load_vlm(str(tmp_path), torch.float32, torch.device("cpu"))
