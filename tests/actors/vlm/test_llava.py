"""What is LLaVA's own: its processor, its chat template, its pieces."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from actors.vlm.family import load_vlm
from actors.vlm.llava import Llava

QUERY = "Describe this image in detail."
CPU = torch.device("cpu")


def draw(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_prefix_and_pixels_are_what_the_models_own_processor_makes(tiny_llava: Path, llava: Llava):
    images = draw(2)
    batch = llava.batch(images, QUERY, "red", False)
    processor = LlavaProcessor.from_pretrained(tiny_llava)
    content = [{"type": "image"}, {"type": "text", "text": QUERY}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    own = processor(images=[Image.fromarray(image) for image in images], text=[chat] * 2, return_tensors="pt")
    assert batch.inputs["input_ids"][:, : batch.answer_start].tolist() == own.input_ids.tolist()
    torch.testing.assert_close(batch.inputs["pixel_values"], own.pixel_values)


@pytest.mark.parametrize("size", [1, 3])
def test_the_channels_of_an_image_as_small_as_their_number_are_not_mistaken(tiny_llava: Path, llava: Llava, size: int):
    images = draw(2)[:, :size, :size]
    own = LlavaProcessor.from_pretrained(tiny_llava).image_processor
    expected = own(images=[Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    torch.testing.assert_close(llava.batch(images, QUERY, "red", False).inputs["pixel_values"], expected)


def test_a_bos_token_that_the_tokenizer_adds_comes_once(tiny_llava: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "llava"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<pad>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<pad>": {"id": "<pad>", "ids": [0], "tokens": ["<pad>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<pad>"}))
    for template in ("{{ bos_token }}", ""):
        (folder / "chat_template.jinja").write_text(template + "{{ messages[0]['content'][-1]['text'] }}:")
        batch = load_vlm(str(folder), torch.float32, CPU).batch(None, "photo", "red", False)
        assert batch.inputs["input_ids"][0].tolist().count(0) == 1


def test_a_model_without_a_chat_template_is_an_error(tiny_llava: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "llava"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat template"):
        load_vlm(str(folder), torch.float32, CPU)


def test_a_chat_template_that_forgets_the_image_is_an_error(tiny_llava: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "llava"))
    (folder / "chat_template.jinja").write_text("user: {{ messages[0]['content'][-1]['text'] }} assistant: ")
    with pytest.raises(ValueError, match="0 image placeholders"):
        load_vlm(str(folder), torch.float32, CPU).batch(draw(1), QUERY, "red", False)


def test_pieces_of_a_character_of_several_tokens_still_join_to_the_caption(llava: Llava):
    caption = "a 红色 circle – é"
    batch = llava.batch(None, QUERY, caption, False)
    assert len(batch.tokens) > len(caption.split())
    assert "".join(batch.tokens) == caption


def test_what_the_tokenizer_drops_at_the_end_belongs_to_the_last_piece(tiny_llava: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "llava"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    batch = load_vlm(str(folder), torch.float32, CPU).batch(None, QUERY, " a red \n", False)
    assert batch.tokens == (" a", " red \n")
