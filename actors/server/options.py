"""What a recipe says of a server that speaks OpenAI's API. Loads neither torch nor the client."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from actors.mistake import Mistake
from actors.options import Change, Count, Positive, Table

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HERE = {"localhost", "127.0.0.1", "::1"}


def _address(url: str) -> str:
    """Without a slash at its end. What is wrong is told without the URL, which might hold a key."""
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        well = False
    if not well:
        raise PydanticCustomError("url", 'expected a URL, such as "http://127.0.0.1:8000/v1"')
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise PydanticCustomError("url", "expected a URL without user, password and query: a key comes by api_key_env")
    return url.rstrip("/")


def _variable(name: str) -> str:
    if name and not VARIABLE.fullmatch(name):
        raise PydanticCustomError("variable", "expected the name of a variable of the environment, never a key itself")
    return name


class ServerTable(Table):
    """The keys of whatever asks such a server (docs/writing.md)."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Annotated[str, AfterValidator(_address)]
    """Where the server's API begins, such as "http://127.0.0.1:8000/v1"; https, if a key goes to another machine."""
    model: str
    """What the server calls the model."""
    api_key_env: Annotated[str, AfterValidator(_variable), Change.FREE] = ""
    """The variable of the workers' environment that holds the key; empty: the server wants none."""
    at_once: Annotated[Count, Change.FREE] = 8
    """Requests of a worker that are under way at the same time, at most."""
    answer_s: Annotated[Positive, Change.FREE] = 120.0
    """Seconds after which a request without its whole answer is given up."""
    tries: Annotated[Count, Change.FREE] = 5
    """How often a request is made, at most, before what it asks has no answer."""
    backoff_s: Annotated[Positive, Change.FREE] = 1.0
    """Seconds, up to which the second try waits by chance; the third up to twice as long, and so on to a minute."""
    images_as: Literal["jpeg", "png"] = "jpeg"
    """How images travel: JPEG of quality 95, or as they are."""
    limit_as: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of tokens; some vendors know the second name alone."""

    @model_validator(mode="after")
    def check_secrecy(self) -> Self:
        """Raises ValueError for a key that would travel in the clear."""
        parts = urlsplit(self.base_url)
        if self.api_key_env and parts.scheme == "http" and parts.hostname not in HERE:
            raise ValueError(
                "base_url with api_key_env: a key would travel in the clear; use https, or leave the key out"
            )
        return self

    def key(self) -> str:
        """The key. Raises Mistake if the environment has none."""
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise Mistake(
                f"api_key_env = {self.api_key_env!r}: a worker's environment has no such variable, or it is empty; set it before the run"
            )
        return os.environ[self.api_key_env] if self.api_key_env else ""
