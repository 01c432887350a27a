"""Documents and their files at a path or a URL: what must be readable after every process of a run is gone.

A document is a folder of files with `manifest.json`, written last, which names the others with their hashes. Without a
manifest there is no document: a writer that died leaves nothing that counts. Places are paths or fsspec URLs (s3://...).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

MANIFEST = "manifest.json"
PIECE_BYTES = 2**23

Manifest = dict[str, Any]


class StorageError(OSError):
    """A document is missing, or is not what its manifest says."""


class Storage:
    """A worker that writes and reads documents, beside a driver that touches small things only."""

    def write(
        self, place: str, manifest: Manifest, small: Mapping[str, bytes], files: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Writes a document in place of any that was there: files (uint8 arrays or bytes) first, the manifest last.

        Returns {"files": sha256 by name, "bytes", "seconds"}. Raises OSError (a full disk, for one) after removing what it wrote.
        """
        start = time.perf_counter()
        contents: dict[str, memoryview] = {name: memoryview(content) for name, content in {**small, **files}.items()}
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        remove(place)
        try:
            for name, content in contents.items():
                _write(f"{place}/{name}", content)
            document = json.dumps({**manifest, "files": hashes}, indent=1, allow_nan=False)
            _write(f"{place}/{MANIFEST}", memoryview(document.encode()))
        except BaseException:
            remove(place)
            raise
        num_bytes = sum(content.nbytes for content in contents.values())
        return {"files": hashes, "bytes": num_bytes, "seconds": time.perf_counter() - start}

    def read(self, place: str, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """({"bytes", "seconds"}, these files as uint8 arrays). Raises StorageError if one is not as the manifest says."""
        start = time.perf_counter()
        hashes = read_manifest(place)["files"]
        files = {name: np.frombuffer(read_bytes(place, name), np.uint8) for name in names}
        for name, content in files.items():
            if hashlib.sha256(content.data).hexdigest() != hashes[name]:
                raise StorageError(f"{place}/{name} does not have the hash that the manifest gives")
        num_bytes = sum(content.nbytes for content in files.values())
        return {"bytes": num_bytes, "seconds": time.perf_counter() - start}, files

    def remove(self, places: Sequence[str]) -> None:
        """Removes documents; those that are gone already are passed over."""
        for place in places:
            remove(place)


def folders(root: str) -> list[str]:
    """The places of the folders in `root`, by name; none if there is no such root."""
    system, path = fsspec.core.url_to_fs(root)
    system.invalidate_cache()
    if not system.isdir(path):
        return []
    found = (entry["name"].rstrip("/") for entry in system.ls(path, detail=True) if entry["type"] == "directory")
    return sorted(f"{root.rstrip('/')}/{name.rpartition('/')[2]}" for name in found)


def has_manifest(place: str) -> bool:
    """Whether a document was written to its end."""
    system, path = fsspec.core.url_to_fs(f"{place}/{MANIFEST}")
    return system.exists(path)


def read_manifest(place: str) -> Manifest:
    """The manifest of a document. Raises StorageError if there is none, or if it is not JSON."""
    try:
        manifest = json.loads(read_bytes(place, MANIFEST))
    except FileNotFoundError as error:
        raise StorageError(f"{place} has no {MANIFEST}: it was not written to its end") from error
    except ValueError as error:
        raise StorageError(f"{place}/{MANIFEST} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise StorageError(f"{place}/{MANIFEST} is damaged: it names no files")
    return manifest


def check(place: str, manifest: Manifest) -> None:
    """Raises StorageError for the first file that is missing or altered. Reads all of them, piece by piece."""
    for name, sha256 in manifest["files"].items():
        system, path = fsspec.core.url_to_fs(f"{place}/{name}")
        digest = hashlib.sha256()
        try:
            with system.open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
        except FileNotFoundError as error:
            raise StorageError(f"{place}/{name} is missing") from error
        if digest.hexdigest() != sha256:
            raise StorageError(f"{place}/{name} does not have the hash that the manifest gives: it was cut or altered")


def read_bytes(place: str, name: str) -> bytes:
    """One file. Raises FileNotFoundError."""
    system, path = fsspec.core.url_to_fs(f"{place}/{name}")
    return system.cat_file(path)


def remove(place: str) -> None:
    """Removes a document, its manifest first, so that what is left of it never counts."""
    system, path = fsspec.core.url_to_fs(place)
    system.invalidate_cache()
    for target in (f"{path}/{MANIFEST}", path):
        if system.exists(target):
            system.rm(target, recursive=True)


def _write(place: str, content: memoryview) -> None:
    """One file, whole or not at all; on a local disk it is there after a power cut as well."""
    system, path = fsspec.core.url_to_fs(place)
    if not isinstance(system, LocalFileSystem):
        system.pipe_file(path, bytes(content))
        return
    system.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
