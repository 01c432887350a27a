"""A file of a run folder that a power cut or a full disk has damaged: what can be read stays, the rest is set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.run_folder.json_files import Damaged, is_whole, parse_lines, replace, to_json


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
