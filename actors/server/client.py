"""Asks a server, again where it fails: only a whole answer of the right shape counts, and every failure is counted by its reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import openai
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.mistake import Mistake

if TYPE_CHECKING:
    from actors.server.options import ServerTable

T = TypeVar("T")
LONGEST_S = 60.0  # between two tries
REFUSALS = (401, 403, 404)  # of whatever is asked: key or model are wrong
NO_KEY = "none"  # what the client sends where there is no key; it will not do without


class Trouble(Exception):
    """No answer, but perhaps the next time. `reason` is one of few words, `wait_s` what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class Refusal(Exception):
    """The server does not take the request, nor will it the next time; or its answer says less than is needed."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was read of an answer; where that is None, the reason. `tries`: how often it was asked in vain, by reason."""

    value: T | None
    reason: str
    tries: dict[str, int]


class Client:
    """Asks for chat completions. Raises Mistake if the environment lacks the key."""

    def __init__(self, options: ServerTable) -> None:
        self.options, self._key = options, options.key()

    def ask(self, bodies: Sequence[Mapping[str, Any]], read: Callable[[str], T]) -> list[Answer[T]]:
        """What `read` makes of the text of each answer, in order. It raises ValidationError or Trouble, to ask again, or Refusal.

        Raises Mistake if the server refuses the key, or does not know the model.
        """
        return asyncio.run(self._ask_all(bodies, read))

    async def _ask_all(self, bodies: Sequence[Mapping[str, Any]], read: Callable[[str], T]) -> list[Answer[T]]:
        gate = asyncio.Semaphore(self.options.at_once)
        client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=self.options.base_url, max_retries=0, timeout=self.options.answer_s
        )
        client.organization = client.project = client.admin_api_key = None  # of the environment, for OpenAI alone
        async with client:
            return list(await asyncio.gather(*(self._ask(client, gate, body, read) for body in bodies)))

    async def _ask(
        self, client: openai.AsyncOpenAI, gate: asyncio.Semaphore, body: Mapping[str, Any], read: Callable[[str], T]
    ) -> Answer[T]:
        tries: Counter[str] = Counter()

        async def once() -> T:
            async with gate:
                text = await self._text(client, body)
            try:
                return read(text)
            except ValidationError as error:
                raise Trouble(_shape(error)) from None

        asking = AsyncRetrying(
            stop=stop_after_attempt(self.options.tries),
            wait=self._wait,
            retry=retry_if_exception_type(Trouble),
            after=lambda state: tries.update([_trouble(state).reason]),
            reraise=True,
        )
        try:
            return Answer(await asking(once), "", dict(tries))
        except Trouble as trouble:
            return Answer(None, f"{trouble.reason}, the last of {self.options.tries} tries", dict(tries))
        except Refusal as refusal:
            return Answer(None, str(refusal), dict(tries))

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next try: what the server asks for, else by chance and ever longer."""
        asked = _trouble(state).wait_s
        if asked is not None:
            return min(asked, LONGEST_S)
        return wait_random_exponential(multiplier=self.options.backoff_s, max=LONGEST_S)(state)

    async def _text(self, client: openai.AsyncOpenAI, body: Mapping[str, Any]) -> str:
        """The bytes of an answer as text."""
        try:
            async with asyncio.timeout(self.options.answer_s):
                raw = await client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, openai.APITimeoutError):
            raise Trouble("too slow") from None
        except openai.APIConnectionError:
            raise Trouble("no connection") from None
        except openai.APIStatusError as error:
            raise self._status(error) from None
        if not raw.text.strip():
            raise Trouble("nothing")
        return raw.text

    def _status(self, error: openai.APIStatusError) -> Exception:
        code = error.status_code
        if code == 429:
            return Trouble("429", _seconds(error.response.headers.get("retry-after")))
        if code >= 500 or code in (408, 409):
            return Trouble(str(code), _seconds(error.response.headers.get("retry-after")))
        said = self._hidden(" ".join(error.response.text.split())[:300])
        if code in REFUSALS:
            return Mistake(
                f"the server at {self.options.base_url} refuses model = {self.options.model!r} with {code}: {said}"
            )
        return Refusal(f"the server refuses the request with {code}: {said}")

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _trouble(state: RetryCallState) -> Trouble:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Trouble)  # nothing else is tried again
    return error


def _shape(error: ValidationError) -> str:
    return "half an answer" if any(one["type"] == "json_invalid" for one in error.errors()) else "another shape"


def _seconds(said: str | None) -> float | None:
    try:
        return max(0.0, float(said)) if said else None
    except ValueError:  # a date: rare, and the backoff will do
        return None
