"""Prefix and answer as ids: templates, first tokens, pieces."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from actors.vlm.chat import Chat

QUERY = "photo"


def chat_of(folder: Path, lead: str = "") -> Chat:
    return Chat(str(folder), json.loads((folder / "config.json").read_text())["image_token_id"], lead)


@pytest.fixture
def llava_folder(tiny_llava: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA's folder, to change."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "llava"))


def llava_chat(folder: Path) -> Chat:
    return Chat(str(folder), AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<image>"))


def test_a_bos_token_that_the_tokenizer_adds_comes_once(llava_folder: Path):
    tokenizer = json.loads((llava_folder / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<pad>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<pad>": {"id": "<pad>", "ids": [0], "tokens": ["<pad>"]}},
    }
    (llava_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((llava_folder / "tokenizer_config.json").read_text())
    (llava_folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<pad>"}))
    for template in ("{{ bos_token }}", ""):
        (llava_folder / "chat_template.jinja").write_text(template + "{{ messages[0]['content'][-1]['text'] }}:")
        chat = llava_chat(llava_folder)
        assert chat.prefix(QUERY, None).tolist().count(0) == 1
        assert chat.answer("red", False)[0].tolist().count(0) == 0


def test_a_model_without_a_chat_template_is_an_error(llava_folder: Path):
    (llava_folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat template"):
        llava_chat(llava_folder)


def test_the_template_of_the_processor_goes_before_the_tokenizers(llava_folder: Path):
    """Older models keep it in chat_template.json, beside a tokenizer whose own template may know of no images."""
    (llava_folder / "chat_template.jinja").unlink()
    config = json.loads((llava_folder / "tokenizer_config.json").read_text())
    (llava_folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "one"}))
    assert llava_chat(llava_folder).tokenizer.decode(llava_chat(llava_folder).prefix(QUERY, None)) == "one"
    (llava_folder / "chat_template.json").write_text(json.dumps({"chat_template": "two"}))
    assert llava_chat(llava_folder).tokenizer.decode(llava_chat(llava_folder).prefix(QUERY, None)) == "two"


def test_a_chat_template_that_forgets_the_image_is_an_error(llava_folder: Path):
    (llava_folder / "chat_template.jinja").write_text("user: {{ messages[0]['content'][-1]['text'] }} assistant: ")
    with pytest.raises(ValueError, match="0 image placeholders for 1 image"):
        llava_chat(llava_folder).prefix(QUERY, "<image><image>")


def test_the_images_text_replaces_the_placeholder(llava_folder: Path):
    chat = llava_chat(llava_folder)
    expected = "<|im_start|>user\n[<image><image>]photo<|im_end|>\n<|im_start|>assistant\n"
    assert chat.tokenizer.decode(chat.prefix(QUERY, "[<image><image>]")) == expected


def test_pieces_of_a_character_of_several_tokens_still_join_to_the_caption(tiny_llava: Path):
    caption = "a 红色 circle – é"
    ids, pieces = llava_chat(tiny_llava).answer(caption, False)
    assert len(ids) == len(pieces) > len(caption.split())
    assert "".join(pieces) == caption


def test_pieces_of_a_text_that_the_tokenizer_normalises_join_to_the_text_as_given(tiny_vlms: dict[str, Path]):
    """Qwen's tokenizers compose letters and accents; the reader sees what was written."""
    chat = chat_of(tiny_vlms["qwen3_vl"])
    decomposed = "a cafe\N{COMBINING ACUTE ACCENT} red"
    ids, pieces = chat.answer(decomposed, False)
    assert ids.tolist() == chat.answer("a caf\N{LATIN SMALL LETTER E WITH ACUTE} red", False)[0].tolist()
    assert "".join(pieces) == decomposed


def test_what_the_tokenizer_drops_at_the_end_belongs_to_the_last_piece(llava_folder: Path):
    tokenizer = json.loads((llava_folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (llava_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert llava_chat(llava_folder).answer(" a red \n", False)[1] == (" a", " red \n")


def test_a_word_that_was_added_to_the_vocabulary_is_one_token_and_no_special_one(tiny_vlms: dict[str, Path]):
    chat = chat_of(tiny_vlms["qwen3_vl"])
    assert chat.answer("a<tool_call> red", False)[1] == ("a", "<tool_call>", " red")
    assert chat.prefix("what is <tool_call>?", None) is not None


def test_a_lead_is_part_of_the_first_token_and_of_no_piece(tiny_vlms: dict[str, Path]):
    plain, led = chat_of(tiny_vlms["smolvlm"]), chat_of(tiny_vlms["smolvlm"], lead=" ")
    ids, pieces = led.answer("red circle", False)
    assert pieces == ("red", " circle")
    assert led.tokenizer.convert_ids_to_tokens(ids.tolist()) == ["Ġred", "Ġcircle"]
    assert ids.tolist() == plain.answer(" red circle", False)[0].tolist()
    for text in (" red", "红", "\nred"):
        assert "".join(led.answer(text, False)[1]) == text


def test_an_image_placeholder_that_is_no_special_token_is_an_error_in_a_caption(llava_folder: Path):
    tokenizer = json.loads((llava_folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<image>"
    (llava_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((llava_folder / "tokenizer_config.json").read_text())
    config = {name: value for name, value in config.items() if "special_tokens" not in name}
    (llava_folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="mark it special"):
        llava_chat(llava_folder).answer("a <image>", False)


def test_an_end_token_that_the_tokenizer_does_not_name_is_an_error(tiny_llava: Path):
    chat = llava_chat(tiny_llava)
    chat.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="include_eos"):
        chat.answer("red", True)
