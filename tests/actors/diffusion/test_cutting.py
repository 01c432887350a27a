"""Captions that are longer than the text encoders read: cut at a word, or between characters where there are none."""

from __future__ import annotations

import pytest

from actors.diffusion.families.cutting import cut_to_fit


def cut(caption: str, longest: int = 12) -> str:
    return cut_to_fit(caption, lambda text: len(text) <= longest)


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("a red circle", "a red circle"),
        ("a red circle and a blue square", "a red circle"),
        ("a red squares", "a red"),
        ("一只红色的圆形放在一个蓝色的正方形旁边", "一只红色的圆形放在一个蓝"),
        ("标题 一只红色的圆形放在一个蓝色的正方形旁边", "标题 一只红色的圆形放在"),
        ("red-green-blue-yellow-circle", "red-green-bl"),
        ("ab " + "x" * 40, "ab xxxxxxxxx"),
        ("abcdefghijk\u0301mnop", "abcdefghijk\u0301"),
        ("abcdefghij\U0001f469\u200d\U0001f680kl", "abcdefghij"),
    ],
)
def test_a_caption_is_cut_at_a_word_and_a_word_that_never_fits_between_characters(caption: str, kept: str) -> None:
    assert cut(caption) == kept


def test_a_caption_is_never_cut_to_nothing() -> None:
    for length in range(1, 20):
        assert cut("一" * 40, length) == "一" * length
    with pytest.raises(ValueError, match="cannot be cut"):
        cut("一二三", 0)
