"""Small prompt files and recipes, as they are found in the wild: such as must be read, and such as must be refused.

Names and contents; `write` puts one into a folder.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CAPTIONS = ("a red circle", "a blue square", "two green triangles")


def json_lines(rows: Sequence[dict[str, Any]], ascii_only: bool = True) -> bytes:
    """A line of JSON per row."""
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def rows_of(key: str) -> list[dict[str, str]]:
    """The captions under a key."""
    return [{key: caption} for caption in CAPTIONS]


READ: dict[str, bytes] = {
    "plain.txt": "".join(f"{caption}\n" for caption in CAPTIONS).encode(),
    "table.csv": ("id,prompt\n" + "".join(f'{i},"{caption}"\n' for i, caption in enumerate(CAPTIONS))).encode(),
    "table.tsv": ("Prompt\tCategory\n" + "".join(f"{caption}\tshapes\n" for caption in CAPTIONS)).encode(),
    "array.json": json.dumps(rows_of("prompt")).encode(),
    "prompt_column.jsonl": json_lines(rows_of("prompt")),
    "text_column.jsonl": json_lines(rows_of("text")),
    "lines.jsonl.gz": gzip.compress(json_lines(rows_of("caption")), mtime=0),
    "bom.jsonl": b"\xef\xbb\xbf" + json_lines(rows_of("caption")),
    "crlf.jsonl": json_lines(rows_of("caption")).replace(b"\n", b"\r\n"),
    "utf16.jsonl": json_lines(rows_of("caption")).decode().encode("utf-16"),
    "line_separator.jsonl": json_lines([{"caption": "a red\u2028circle"}, *rows_of("caption")[1:]], ascii_only=False),
    "markup_category.jsonl": json_lines([{"caption": caption, "category": "size [/cm]"} for caption in CAPTIONS]),
    "null_category.jsonl": json_lines([{"caption": caption, "category": None} for caption in CAPTIONS]),
    "zero_id.jsonl": json_lines([{"caption": caption, "id": i} for i, caption in enumerate(CAPTIONS)]),
}
"""Three prompts each, in their order."""

REFUSED: dict[str, bytes] = {
    "huge_integer.jsonl": b'{"caption": "a red circle", "weight": ' + b"9" * 5000 + b"}\n",
    "deep.jsonl": b'{"caption": "a red circle", "tree": ' + b"[" * 20_000 + b"]" * 20_000 + b"}\n",
    "surrogate_id.jsonl": b'{"id": "a\\ud800", "caption": "\\u200b"}\n{"id": "b", "caption": "a red circle"}\n',
    "surrogate_caption.jsonl": b'{"caption": "a \\ud800 circle"}\n{"id": "b", "caption": "a red circle"}\n',
    "no_words.jsonl": b'{"id": "a", "caption": "<script>"}\n{"id": "b", "caption": "\\u200b\\u200b"}\n',
    "no_caption.jsonl": json_lines([{"name": caption} for caption in CAPTIONS]),
}

RECIPE = "# zwölf\n[loop]\nsteps = 2\n"
REFUSED_RECIPES: dict[str, bytes] = {
    "utf16.toml": RECIPE.encode("utf-16"),
    "latin1.toml": RECIPE.encode("latin-1"),
}
"""Recipes that are not UTF-8."""


def write(folder: Path, name: str) -> Path:
    """The file of this name from READ, REFUSED or REFUSED_RECIPES."""
    file = folder / name
    file.write_bytes({**READ, **REFUSED, **REFUSED_RECIPES}[name])
    return file
