"""Captions that are longer than the text encoders read, cut at a word or, without spaces, at a character."""

from __future__ import annotations

from collections.abc import Callable

import regex


def cut_to_fit(caption: str, fits: Callable[[str], bool]) -> str:
    """The caption if it fits, else as many of its words as do, and of a word that would never fit as many characters as do.

    So a text without spaces, as Chinese or Thai is written, is cut between characters (grapheme clusters, Unicode TR 29). Raises
    ValueError if not even one character fits.
    """
    if fits(caption):
        return caption
    words = caption.split()
    kept = " ".join(words[: _most(len(words) - 1, lambda count: fits(" ".join(words[:count])))])
    left = words[len(kept.split())]
    if not fits(left):
        characters = regex.findall(r"\X", left)
        lead = f"{kept} " if kept else ""
        count = _most(len(characters) - 1, lambda count: fits(lead + "".join(characters[:count])))
        kept = (lead + "".join(characters[:count])).rstrip()
    if not kept:
        raise ValueError(f"the caption {caption[:60]!r} cannot be cut to what the text encoders read")
    return kept


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest count from 0 to `limit` for which it holds; if it holds for one, it holds for all below."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
