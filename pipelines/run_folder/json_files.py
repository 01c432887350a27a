"""A run's own files: written so that a power cut leaves the old one or the new one, and read as what may be damaged all the same.

Files of JSON are replaced as a whole (*.json), or get one line after the other (*.jsonl).
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipelines.recipe.errors import UserError

Record = dict[str, Any]
T = TypeVar("T")
REMEDY = "--resume mends it; or move it away to read the rest of the run"


class Damaged(UserError):
    """A file of a run is not what was written there: the text says which, what is wrong, and what to do."""

    def __init__(self, source: object, problem: str) -> None:
        super().__init__(f"{source} is damaged: {problem}. {REMEDY}")
        self.problem = problem


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any parser reads: numpy becomes plain, and NaN and infinities become null."""
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, indent=indent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    replace(path, to_json(value, indent=1).encode() + b"\n")


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another; it is on the disk before it gets the name."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path, kind: type[T]) -> T | None:
    """The content of a JSON file, or None if it is missing. Raises Damaged."""
    if not path.exists():
        return None
    content = _content(path)
    if not content.strip(b"\0 \r\n\t"):
        raise Damaged(path, "it is empty")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, _words(error)) from None
    if not isinstance(value, kind):
        raise Damaged(path, f"it holds no {'object' if kind is dict else 'list'}")
    return value


def read_lines(path: Path) -> list[Record]:
    """The records of a .jsonl file; a last line that is not written to its end is left out, a missing file is empty. Raises Damaged."""
    records, problem = readable_lines(path)
    if problem:
        raise Damaged(path, problem)
    return records


def readable_lines(path: Path) -> tuple[list[Record], str]:
    """The records of a .jsonl file as far as they can be read, and what is wrong with the first line that cannot, if one is."""
    return parse_lines(_content(path) if path.exists() else b"")


def parse_lines(content: bytes) -> tuple[list[Record], str]:
    """The records of a .jsonl file, and what is wrong with the first line that is none, if one is.

    What follows the last newline is a line that is being written, or was cut, also where a power cut filled it up with zeros.
    """
    records: list[Record] = []
    problem = ""
    for number, line in enumerate(content.rstrip(b"\0").split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = problem or f"line {number}: {_words(error)}"
            continue
        if isinstance(record, dict):
            records.append(record)
        else:
            problem = problem or f"line {number} is no object"
    return records, problem


def is_whole(content: bytes) -> bool:
    """Whether a .jsonl file has whole lines of records only."""
    return not parse_lines(content)[1] and content[-1:] in (b"", b"\n")


def read_toml(path: Path) -> str:
    """A recipe that a run wrote. Raises Damaged."""
    return checked_toml(_content(path), path)


def checked_toml(content: bytes, source: object) -> str:
    """The text of a recipe that a run wrote at `source`. Raises Damaged."""
    if not content.strip(b"\0 \r\n\t"):
        raise Damaged(source, "it is empty")
    try:
        text = content.decode()
        tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(source, _words(error)) from None
    return text


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise Damaged(path, "it is a folder") from None


def _words(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def mend_lines(path: Path) -> str:
    """Leaves the whole lines of a file of JSON lines; says what was done, nothing if nothing was."""
    if path.is_dir():
        return _set_aside(path, "it is a folder")
    content = path.read_bytes() if path.exists() else b""
    if is_whole(content):
        return ""
    records, problem = parse_lines(content)
    said = _set_aside(path, problem or "its last line was cut")
    replace(path, "".join(to_json(record) + "\n" for record in records).encode())
    return f"{said}; its {len(records)} whole lines stay"


def mend_whole(path: Path, read: Callable[[], object]) -> str:
    """Sets a file aside that `read` finds damaged; says so, nothing if it is not."""
    try:
        if path.exists():
            read()
    except Damaged as error:
        return _set_aside(path, error.problem)
    return ""


def _set_aside(path: Path, problem: str) -> str:
    kept = f"{path.name}.damaged"
    path.replace(path.with_name(kept))
    return f"{path.name} was damaged ({problem}) and is kept as {kept}"
