"""Text as a model's own tokenizer and chat template write it: the prefix that asks, and the answer whose likelihood is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from actors.messages import Turn
from actors.mistake import Mistake

KEPT = 64  # prefixes


class Chat:
    """A tokenizer and the chat template of its folder: the processor's template, or else the tokenizer's.

    `lead` is what an assistant's turn begins with before its text: a space after "Assistant:", where the template writes one.
    Special tokens are those that the tokenizer marks as special. What it merely adds to its vocabulary (`<tool_call>`, `<think>`)
    is a word like any other.
    """

    def __init__(self, path_or_name: str, image_token_id: int, lead: str = "") -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path_or_name)
        template = ProcessorMixin.get_processor_dict(path_or_name)[0].get("chat_template")
        self.tokenizer.chat_template = template or self.tokenizer.chat_template
        if self.tokenizer.chat_template is None:
            raise Mistake(f"{path_or_name} has no chat template: put one in chat_template.jinja beside its tokenizer")
        self.image_token_id, self.lead = image_token_id, lead
        self.image_token: str = self.tokenizer.convert_ids_to_tokens(image_token_id)
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self.special_tokens: tuple[str, ...] = tuple(dict.fromkeys([*self.tokenizer.all_special_tokens, *added]))
        self._prefixes: dict[tuple[str, str | None], Tensor] = {}

    def prefix(self, query: str, image_text: str | None) -> Tensor:
        """Ids int64 of the chat up to where the assistant begins to speak; kept for each pair of arguments.

        `image_text` replaces the image's placeholder in what the template writes; None is a chat without an image.
        Raises ValueError for a query that contains a special token's text.
        """
        key = (query, image_text)
        if key not in self._prefixes:
            if len(self._prefixes) == KEPT:  # a query may hold its caption
                self._prefixes.clear()
            parts: tuple[str | int, ...] = (query,) if image_text is None else (0, query)
            self._prefixes[key] = self.conversation([Turn("user", parts)], [] if image_text is None else [image_text])
        return self._prefixes[key]

    def answer(self, answer: str, include_eos: bool) -> tuple[Tensor, tuple[str, ...]]:
        """Ids int64 [T] and pieces of the answer alone, so that they cannot depend on the prefix; special tokens' text is plain text.

        Raises ValueError for an empty answer.
        """
        encoded = self.tokenizer(
            self.lead + answer, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ids, ends = list(encoded.input_ids), [max(0, end - len(self.lead)) for _, end in encoded.offset_mapping]
        if not answer.strip() or not ids:
            raise ValueError(
                f"the answer {answer!r} is empty: there is no likelihood of nothing, give a caption of a word or more"
            )
        if self.image_token_id in ids:
            raise ValueError(
                "this VLM's tokenizer reads its image placeholder inside a caption: mark it special in tokenizer.json"
            )
        pieces = [answer[start:end] for start, end in zip([0, *ends[:-1]], [*ends[:-1], len(answer)], strict=True)]
        if include_eos:
            if self.tokenizer.eos_token_id is None:
                raise Mistake("include_eos needs an end token, and this VLM's tokenizer names none: leave it false")
            ids, pieces = [*ids, self.tokenizer.eos_token_id], [*pieces, self.tokenizer.eos_token]
        return torch.tensor(ids), tuple(pieces)

    def conversation(self, turns: Sequence[Turn], image_texts: Sequence[str]) -> Tensor:
        """Ids int64 of turns up to where the assistant begins to speak. `image_texts`: of their images in order.

        Raises Mistake for a text that contains a special token's, and for turns that the template cannot write.
        """
        text = self._write([{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in turns])
        between = text.split(self.image_token)
        written, given = len(between) - 1, len(image_texts)
        if written != given:
            raise Mistake(
                f"this VLM's chat template writes {written} image placeholders for {given} image{'s' * (given != 1)}: correct it"
            )
        text = "".join(piece for pair in zip(between, [*image_texts, ""], strict=True) for piece in pair)
        bos = self.tokenizer.bos_token
        return torch.tensor(self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids)

    def text(self, ids: Sequence[int]) -> str:
        """What an assistant's ids say, without special tokens and the lead."""
        written: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return written.removeprefix(self.lead)

    def _write(self, messages: list[dict[str, Any]]) -> str:
        texts = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
        for text in texts:
            if found := next((special for special in self.special_tokens if special in text), None):
                raise Mistake(f"the query {text!r} contains {found!r}, a special token of this VLM: take it out")
        try:
            written: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template runs code of its own
            raise Mistake(
                f"this VLM's chat template cannot write {_roles(messages)} ({type(error).__name__}: {error}): correct "
                "chat_template.jinja"
            ) from error
        return written


def _content(part: str | int) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _roles(messages: list[dict[str, Any]]) -> str:
    return "one user's turn" if len(messages) == 1 else f"turns of {', '.join(one['role'] for one in messages)}"
