"""Writes a file at a URL only if nobody else has written it meanwhile: what a lease stands on."""

from __future__ import annotations

import time
from typing import Any

from cluster.storage import files
from cluster.storage.files import S3, in_words, system_at

SETTLE_S = 2.0  # after a write at a store that knows no conditions: another's write is seen by then
CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest", "501")


def write_if(place: str, content: bytes, before: bytes | None) -> bool:
    """Whether the file was written: only if it holds `before` (None: if there is none). Raises OSError, such as StorageError.

    S3 decides by itself (If-None-Match, If-Match). A store that knows no conditions is written, and read again after SETTLE_S: of
    two that write at once, the last one has it, and both see who that is.
    """
    system, path = system_at(place)
    if (tag := _tag(place, before)) is None:
        return False
    if place.startswith(S3):
        condition = {"mode": "create"} if before is None else {"IfMatch": tag}
        try:
            system.pipe_file(path, content, **condition)
            return True
        except Exception as error:
            if _code(error) in CHANGED or isinstance(error, FileExistsError):
                return False
            if _code(error) not in NO_CONDITIONS:
                with in_words("written", place):
                    raise
    with in_words("written", place):
        system.pipe_file(path, content)
    time.sleep(SETTLE_S)
    return files.read(place) == content


def remove_file(place: str) -> None:
    """Removes one file, at a path or a URL. Raises OSError."""
    system, path = system_at(place)
    with in_words("removed", place):
        system.rm_file(path)


def _tag(place: str, before: bytes | None) -> str | None:
    """S3's name for the content that the file has, empty for none; None if the content is not `before`."""
    system, path = system_at(place)
    tags = []
    for _ in range(2):  # before and after the reading: of one content
        try:
            with in_words("read", place):
                info: dict[str, Any] = system.info(path)
            tags.append(str(info.get("ETag", "")))
            if len(tags) == 1 and files.read(place) != before:
                return None
        except FileNotFoundError:
            return "" if before is None and not tags else None
    return tags[0] if tags[0] == tags[1] else None


def _code(error: BaseException) -> str:
    response = getattr(error.__cause__ or error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
