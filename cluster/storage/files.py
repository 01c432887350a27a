"""Files at a path or a URL: what S3 refuses for a moment is asked for again, and what it refuses for good is said in words.

botocore alone tries again (its "standard" mode: timeouts, resets, 429, 500, 502, 503, 504, with growing pauses), so that one
call ends within about a minute; s3fs's own tries would multiply that by 5 to 25. Only an answer that breaks off is read again here.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

PATIENT: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 9,
    "retries": {"mode": "standard", "total_max_attempts": 5},
}
BRIEF: dict[str, Any] = {
    "connect_timeout": 3,
    "read_timeout": 5,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a file is read again whose answer broke off
AGAIN_WITHIN_S = 30.0
PROBE = bytes(4096)  # a block: what no full disk takes
ROOM_BYTES = 160  # for the names of files in a place
KEY_BYTES, NAME_BYTES = 1024, 255  # of what comes after a bucket, and of one name there: it has a copy on a disk
S3 = ("s3://", "s3a://")
WITHOUT_HOST = ("hdfs", "dbfs", "memory")  # protocols whose URLs may begin with three slashes
MARKS = ("/", "_$folder$")  # how the names of empty files end that consoles and Hadoop leave for folders


class StorageError(OSError):
    """A place cannot be read or written. The text says what was tried and what to do."""


def resolved(place: str) -> str:
    """What a user means by a path or URL: file:// is this disk, and a slash at the end says nothing.

    Raises ValueError for what names no place: it is empty or misspelt, or a variable in it is unset.
    """
    if not place.strip():
        raise ValueError("it is empty (is a variable unset?)")
    if not is_text(place):
        raise ValueError("it is not text in UTF-8")
    protocol, colon, rest = place.partition("://")
    if not colon:
        if re.match(r"[A-Za-z][\w+.-]*:/", place):
            raise ValueError(f"a URL has two slashes after its colon (a folder of that name is ./{place})")
        return place.rstrip("/") or "/"
    if protocol in ("file", "local"):
        if not rest.startswith("/"):
            raise ValueError("it has a host, or is not absolute (file:///data/run has three slashes)")
        return rest.rstrip("/") or "/"
    names = rest.rstrip("/").split("/")
    if not any(names) or (not names[0] and protocol not in WITHOUT_HOST):
        raise ValueError("it names no bucket (is a variable unset?)")
    if {"", ".", ".."} & {*names[1:]}:
        raise ValueError("a name between its slashes is missing, or is . or .. (is a variable unset?)")
    return place.rstrip("/")


def is_text(text: str) -> bool:
    """Whether it is text in UTF-8, which a terminal need not give, without NUL."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def system_at(place: str, patience: dict[str, Any] | None = None) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it. Listings are never remembered: others write there as well.

    A "::" is part of a name here; fsspec's own reading of URLs would take it for a chain of file systems.
    """
    protocol, colon, _ = place.partition("://")
    if not colon:
        return LocalFileSystem(), os.path.abspath(place)
    options = fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(place)
    if place.startswith(S3):
        options |= {"use_listings_cache": False, "config_kwargs": patience or PATIENT}
    system = fsspec.filesystem(protocol, **options)
    if place.startswith(S3):
        system.retries = 1
    return system, system._strip_protocol(place)


def read(place: str, start: int | None = None, end: int | None = None) -> bytes:
    """A file, or these bytes of it. Raises FileNotFoundError, or StorageError."""
    system, path = system_at(place)
    with in_words("read", place):
        if isinstance(system, LocalFileSystem):
            return system.cat_file(path, start=start, end=end)
        return _again(lambda: system.cat_file(path, start=start, end=end))


def write(place: str, content: memoryview) -> None:
    """Writes a file, whole or not at all; on a local disk it is there after a power cut as well. Raises OSError, such as StorageError."""
    system, path = system_at(place)
    if not isinstance(system, LocalFileSystem):
        with in_words("written", place):
            system.pipe_file(path, bytes(content))
        return
    system.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _keep_names(os.path.dirname(path))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _keep_names(folder: str) -> None:
    """Makes a folder of this disk hold the names that it has now, whatever happens to the machine; some file systems cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(place: str) -> int:
    """The bytes of a file. Raises FileNotFoundError, or StorageError."""
    system, path = system_at(place)
    with in_words("read", place):
        return system.size(path)


def exists(place: str) -> bool:
    """Whether there is a file. Raises StorageError if that cannot be known."""
    system, path = system_at(place)
    with in_words("read", place):
        return system.exists(path)


def folders(root: str) -> list[str]:
    """The places of the folders in `root`, by name; none if there is no such root. Raises StorageError if that cannot be known."""
    system, path = system_at(root)
    try:
        with in_words("listed", root):
            entries = system.ls(path, detail=True)
    except FileNotFoundError:
        return []
    found = (entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
    return sorted(f"{root.rstrip('/')}/{name.rpartition('/')[2]}" for name in found)


def files(root: str) -> list[str]:
    """The names in `root` of all files below it. Raises StorageError if that cannot be known."""
    system, path = system_at(root)
    with in_words("listed", root):
        names = (name.removeprefix(path).lstrip("/") for name in system.find(path))
        return sorted(name for name in names if name and not name.endswith(MARKS))


def remove(place: str, first: str) -> None:
    """Removes a folder, its file `first` before all others; one that is gone already is passed over. Raises OSError."""
    system, path = system_at(place)
    with in_words("removed", place):
        for name in sorted(system.find(path), key=lambda name: name != f"{path}/{first}"):
            system.rm_file(name)
        if isinstance(system, LocalFileSystem) and system.exists(path):
            system.rm(path, recursive=True)


def check_writable(place: str) -> None:
    """Writes a small file in `place`, or in the nearest folder above it that exists, and removes it. Takes seconds, not minutes.

    Raises StorageError with what to do: no such bucket, access denied, no answer, a read-only or full disk, a name too long.
    """
    system, path = system_at(place, BRIEF)
    name = f".writable-{uuid.uuid4().hex}"
    if not isinstance(system, LocalFileSystem):
        _check_length(place, path.partition("/")[2], KEY_BYTES, NAME_BYTES)
        with in_words("written", place):
            system.pipe_file(f"{path}/{name}", PROBE)
            system.rm_file(f"{path}/{name}")
        return
    folder = next(folder for folder in (Path(path), *Path(path).parents) if os.path.lexists(folder))
    if not os.path.isdir(folder):
        what = "a link to nothing" if folder.is_symlink() and not os.path.exists(folder) else "a file"
        raise StorageError(f"{place} cannot be written: {folder} is {what}. Give another place")
    _check_length(place, path, os.pathconf(folder, "PC_PATH_MAX"), os.pathconf(folder, "PC_NAME_MAX"))
    try:
        write(str(folder / name), memoryview(PROBE))
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror} ({folder}). Make room or give rights there, or give another place"
        ) from error
    finally:
        with suppress(OSError):
            (folder / name).unlink()


def _check_length(place: str, path: str, most: int, most_of_name: int) -> None:
    """Raises StorageError if a path, or a name in it, has more bytes than its file system takes."""
    longest = max(path.split("/"), key=lambda name: len(os.fsencode(name)))
    if len(os.fsencode(longest)) > most_of_name:
        found = f"{longest[:20]}... has {len(os.fsencode(longest))} bytes, and a name may have {most_of_name}"
    elif len(os.fsencode(path)) + ROOM_BYTES > most:
        found = f"it has {len(os.fsencode(path))} bytes, and {most - ROOM_BYTES} leave room for the files in it"
    else:
        return
    raise StorageError(f"{place[:60]}... cannot be written: {found}. Give a shorter name")


@contextmanager
def in_words(done: str, place: str) -> Iterator[None]:
    """Turns what goes wrong at a URL into a StorageError: `place` cannot be `done`, and why. A missing file stays FileNotFoundError."""
    try:
        yield
    except Exception as error:
        local = "://" not in place
        if local or (isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"):
            raise
        raise StorageError(f"{place} cannot be {done}: {_why(error, place)}") from error


def _why(error: Exception, place: str) -> str:
    from botocore import exceptions

    text, code = str(error).strip().rstrip(".") or repr(error), _code(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {place.split('/')[2]}. Make it, or give another place"
    if isinstance(error, PermissionError):
        return (
            f"access is denied ({text}). The credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject "
            "there: check AWS_ACCESS_KEY_ID, AWS_PROFILE or the node's role"
        )
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return f"{text}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give the node a role"
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return f"{text}, tried again without success. Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the network"
    if "reached max retries" in str(error.__cause__):
        return f"the service answers {code} ({text}), again and again: it is overloaded or down. Go on when it is back"
    return text


def _code(error: BaseException) -> str:
    """S3's word for an error; empty if it is none of S3's."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code", "")


def _again(call: Callable[[], bytes]) -> bytes:
    """The call's result, which is asked for again when the connection breaks in the middle of it."""
    from s3fs.core import S3_RETRYABLE_ERRORS

    began = time.monotonic()
    for pause_s in PAUSES_S:
        try:
            return call()
        except S3_RETRYABLE_ERRORS:
            if time.monotonic() - began > AGAIN_WITHIN_S:
                raise
            time.sleep(pause_s)
    return call()
