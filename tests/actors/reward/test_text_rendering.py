"""Text rendering: what its label is, which prompts have one, and that it is PromptEcho of that label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import Prompt
from actors.reward.kinds.promptecho import PromptEchoOptions
from actors.reward.kinds.text_label import label_of, text_of
from actors.reward.kinds.text_rendering import OCR_QUERY, TextRenderingOptions

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
SALE = {"subtitle": ["only today", "until 8"], "main_title": ["SALE 大促"]}


def prompt_with(text: Any) -> Prompt:
    return Prompt("7", "a poster", extra={"text": text})


def test_the_label_has_all_lists_in_their_order_and_other_scripts_as_they_are() -> None:
    wanted = (
        '{"main_title": ["SALE 大促"], "subtitle": ["only today", "until 8"], "selling_points": [], "other_text": []}'
    )
    assert label_of(text_of(SALE)) == wanted
    assert label_of(text_of(json.dumps(SALE))) == wanted
    assert json.loads(label_of(text_of(SALE), "indented")) == json.loads(label_of(text_of(SALE), "compact"))
    assert " " not in label_of(text_of({"main_title": ["A"]}), "compact")


def test_a_title_of_two_lines_is_two_lines_of_the_list() -> None:
    assert text_of({"main_title": "Big\n Sale \n"})["main_title"] == ["Big", "Sale"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"title": ["SALE"]}, "has 'title', but the lists are main_title"),
        ({"main_title": ["SALE", 8]}, "a list of lines is expected"),
        ({"main_title": []}, "has no line of text"),
        ("SALE", "is no JSON"),
        (["SALE"], "an object with the lists"),
    ],
)
def test_a_prompt_whose_text_cannot_be_read_is_told_before_anything_is_scored(text: Any, message: str) -> None:
    options = TextRenderingOptions(model="none")
    assert message in options.problem_of(prompt_with(text))
    with pytest.raises(ValueError, match="its field `text`"):
        options.label_of(prompt_with(text))


def test_a_prompt_without_text_is_told_by_the_name_of_the_field() -> None:
    assert "no field `words`" in TextRenderingOptions(model="none", field="words").problem_of(prompt_with(SALE))


def test_it_is_promptecho_of_the_label_under_the_query_for_text(tiny_llava: Path) -> None:
    ours = TextRenderingOptions(model=str(tiny_llava)).load()
    echo = PromptEchoOptions(model=str(tiny_llava), query=OCR_QUERY).load()
    prompt = prompt_with(SALE)
    assert ours.score(IMAGES, prompt).rewards_K == echo.score(IMAGES, Prompt("0", label_of(text_of(SALE)))).rewards_K
    assert (
        ours.score(IMAGES, Prompt("8", "another caption", extra=prompt.extra)).rewards_K
        == ours.score(IMAGES, prompt).rewards_K
    )
