"""The architectures of known models: one JSON file each, so that their sizes are known without their weights, torch or the hub.

A file has `library` and `class` (of diffusers or transformers), `config` (the keyword arguments from which the class is built),
`parameters` and `buffers` (how many numbers the built model holds; buffers are those that its files hold too), and `source`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_FOLDER = files(__name__)


def names() -> tuple[str, ...]:
    """All names that `load` knows, sorted."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json")))


def load(name: str) -> dict[str, Any]:
    """The description of an architecture. Raises KeyError, with all names, for one that is not there."""
    if name not in names():
        raise KeyError(f"no architecture {name!r}: there are {', '.join(names())}")
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
