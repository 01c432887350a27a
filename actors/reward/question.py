"""Questions about a caption, which some rewards ask a vision-language model."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

CAPTION = "{caption}"


def _with_caption(question: str) -> str:
    if CAPTION not in question:
        raise ValueError(f"reward.question = {question!r}: write {CAPTION} where the caption belongs")
    return question


Question = Annotated[str, AfterValidator(_with_caption)]
"""A question with a place for the caption."""


def ask(question: str, caption: str) -> str:
    """The question about this caption. Raises ValueError for an empty one."""
    if not caption.strip():
        raise ValueError(f"the caption {caption!r} is empty: there is nothing to ask about")
    return question.replace(CAPTION, caption)
