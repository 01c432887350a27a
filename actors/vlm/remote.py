"""A VLM behind a server that speaks OpenAI's API (vLLM, SGLang, a vendor): text, the chance of an answer, and PromptEcho itself.

Loads no torch.
"""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from actors.messages import Chance, Turn, Verdict, WriteRequest, Written
from actors.server.client import Answer, Client, Refusal, Trouble
from actors.server.options import ServerTable
from actors.vlm.options import Drawing, reads_like

LISTED = 20  # likeliest tokens, the most that OpenAI's API tells of
UNLISTED = 0.01  # the most that may be missing from a chance, because a spelling of the answer is not among them
JPEG_QUALITY = 95
IMPOSSIBLE = -9999.0  # vLLM's word for minus infinity, which JSON has not
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class LogProb(BaseModel):
    """Of a token."""

    token: str
    logprob: float = Field(allow_inf_nan=False, le=1e-6)


class Place(BaseModel):
    """The likeliest tokens at a place."""

    top_logprobs: list[LogProb] = Field(min_length=1)


class LogProbs(BaseModel):
    """Of the tokens that were written."""

    content: list[Place] = Field(min_length=1)


class Said(BaseModel):
    """What an assistant says."""

    content: str | None


class Choice(BaseModel):
    """One completion."""

    message: Said
    finish_reason: str | None = None
    logprobs: LogProbs | None = None


class Usage(BaseModel):
    """What is counted."""

    completion_tokens: int = 0


class PromptLogProb(BaseModel):
    """Of a token of the prompt, as vLLM tells it."""

    logprob: float = Field(allow_inf_nan=False, le=1e-6)
    decoded_token: str | None = None


class Completion(BaseModel):
    """An answer of the server: what is read of it."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage = Usage()
    prompt_logprobs: list[dict[int, PromptLogProb] | None] | None = None


class RemoteVlm:
    """Asks for what a VLM elsewhere finds. Every request stands for itself; images are uint8 RGB [H, W, 3], numbered as in `Turn`.

    Raises Mistake if the environment lacks the key, and where the server refuses key or model.
    """

    def __init__(self, options: ServerTable) -> None:
        self.options, self.client = options, Client(options)
        self._questions: dict[tuple[str, int, int], list[int]] = {}

    def write(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], how: Drawing, max_tokens: int
    ) -> tuple[Written, ...]:
        """A text for each request. A seed goes along with a temperature: whether it decides the text is up to the server."""
        drawn = {"temperature": how.temperature, "top_p": how.top_p, self.options.limit_as: max_tokens}
        bodies = [
            body | drawn | ({"seed": request.seed} if how.temperature else {})
            for request, body in zip(requests, self._bodies(requests, images), strict=True)
        ]
        return tuple(_written(answer) for answer in self.client.ask(bodies, _read_text))

    def chances(
        self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], answer: str
    ) -> tuple[Chance, ...]:
        """How likely each next turn begins with `answer`: the sum over its spellings among the LISTED likeliest tokens.

        None where what is not listed could change it by more than UNLISTED.
        """
        asked = {"logprobs": True, "top_logprobs": LISTED, "temperature": 1.0, self.options.limit_as: 1}
        bodies = [body | asked for body in self._bodies(requests, images)]
        found = self.client.ask(bodies, lambda text: _read_chance(text, answer))
        return tuple(Chance(one.value, one.reason, one.tries) for one in found)

    def echo(self, images: Sequence[np.ndarray], query: str, caption: str) -> tuple[Verdict, ...]:
        """PromptEcho: for each image the mean log p of the caption's tokens as the answer to (image, query), and log p of each.

        The server must tell the log-probabilities of a prompt (`prompt_logprobs` of vLLM). Which tokens are the caption's is seen by
        asking for the question alone as well, once for images of one size. Raises ValueError for an empty caption.
        """
        if not caption.strip():
            raise ValueError(f"the caption {caption!r} is empty: there is no likelihood of nothing")
        sizes = [(query, *image_HWC.shape[:2]) for image_HWC in images]
        questions = self._bodies([WriteRequest((Turn("user", (n, query)),)) for n in range(len(images))], images)
        asked = {self.options.limit_as: 1, "extra_body": {"prompt_logprobs": 0}}
        unknown = {
            size: body | asked for size, body in zip(sizes, questions, strict=True) if size not in self._questions
        }
        learned = dict(zip(unknown, self.client.ask(list(unknown.values()), _read_prompt), strict=True))
        self._questions |= {size: [id for id, _ in found.value] for size, found in learned.items() if found.value}
        known = [number for number, size in enumerate(sizes) if size in self._questions]
        spoken = {"role": "assistant", "content": caption}
        open_ended = {"prompt_logprobs": 0, "add_generation_prompt": False, "continue_final_message": True}
        bodies = [
            {**questions[n], "messages": [*questions[n]["messages"], spoken], **asked, "extra_body": open_ended}
            for n in known
        ]
        found = dict(zip(known, self.client.ask(bodies, _read_prompt), strict=True))
        return tuple(
            _echo(found[number], self._questions[size], caption)
            if number in found
            else Verdict(None, learned[size].reason, tries=learned[size].tries)
            for number, size in enumerate(sizes)
        )

    def _bodies(self, requests: Sequence[WriteRequest], images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """What goes to the server, but for how it is to answer."""
        urls = [data_url(image_HWC, self.options.images_as) for image_HWC in images]
        return [
            {
                "model": self.options.model,
                "messages": [{"role": turn.role, "content": _content(turn, urls)} for turn in request.turns],
            }
            for request in requests
        ]


def data_url(image_HWC: np.ndarray, images_as: str) -> str:
    """A uint8 RGB image as a data URL: JPEG of quality 95, or PNG."""
    written = io.BytesIO()
    quality = {"quality": JPEG_QUALITY} if images_as == "jpeg" else {}
    Image.fromarray(image_HWC).save(written, images_as, **quality)
    return f"data:image/{images_as};base64,{base64.b64encode(written.getvalue()).decode()}"


def _content(turn: Turn, urls: Sequence[str]) -> str | list[dict[str, Any]]:
    """Plain text where there are no images."""
    texts = [part for part in turn.parts if isinstance(part, str)]
    if len(texts) == len(turn.parts):
        return "".join(texts)
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": urls[part]}}
        for part in turn.parts
    ]


def _read_text(text: str) -> Written:
    completion = Completion.model_validate_json(text)
    choice = completion.choices[0]
    if not (choice.message.content or "").strip():
        raise Trouble("nothing")
    return Written(
        choice.message.content, cut=choice.finish_reason == "length", tokens=completion.usage.completion_tokens
    )


def _written(answer: Answer[Written]) -> Written:
    if answer.value is None:
        return Written(None, answer.reason, tries=answer.tries)
    return replace(answer.value, tries=answer.tries)


def _read_chance(text: str, answer: str) -> float:
    logprobs = Completion.model_validate_json(text).choices[0].logprobs
    if logprobs is None:
        raise Refusal("the server tells no log-probabilities of what it writes")
    listed = [(one.token, math.exp(one.logprob)) for one in logprobs.content[0].top_logprobs]
    missing = 1 - sum(p for _, p in listed)
    if missing > UNLISTED:
        raise Refusal(
            f"{missing:.0%} of what may be said is not among the {len(listed)} likeliest tokens that the server lists"
        )
    return min(1.0, sum(p for token, p in listed if reads_like(token, answer)))


def _read_prompt(text: str) -> list[tuple[int, PromptLogProb]]:
    """The tokens of the prompt but for the first, which has no probability."""
    places = Completion.model_validate_json(text).prompt_logprobs
    if places is None:
        raise Refusal("the server tells no log-probabilities of a prompt (vLLM does): PromptEcho needs them")
    if not all(places[1:]):
        raise Trouble("another shape")
    return [next(iter(place.items())) for place in places[1:] if place]


def _echo(found: Answer[list[tuple[int, PromptLogProb]]], question: Sequence[int], caption: str) -> Verdict:
    if found.value is None:
        return Verdict(None, found.reason, tries=found.tries)
    before, of_caption = found.value[: len(question)], found.value[len(question) :]
    tokens = tuple(one.decoded_token or "" for _, one in of_caption)
    if [id for id, _ in before] != list(question) or not _spells(tokens, caption):
        return Verdict(
            None,
            f"the server's prompt does not end in the caption, but in {''.join(tokens)[-80:]!r}",
            tries=found.tries,
        )
    log_probs = tuple(one.logprob for _, one in of_caption)
    if min(log_probs) <= IMPOSSIBLE:
        return Verdict(None, "a token of the caption has no probability at all", tries=found.tries)
    return Verdict(math.fsum(log_probs) / len(log_probs), "", tokens, log_probs, found.tries)


def _spells(tokens: Sequence[str], caption: str) -> bool:
    """Whether tokens are those of the caption, as far as can be seen: parts of a character have no text of their own."""
    joined, wanted = ("".join(unicodedata.normalize("NFC", text).split()) for text in ("".join(tokens), caption))
    return bool(tokens) and (joined == wanted or REPLACEMENT in joined)
