"""Documents and their files at a path or a URL: what must be readable after every process of a run is gone.

A document is a folder of files with `manifest.json`, written last, which names the others with their hashes. Without a
manifest there is no document: a writer that died leaves nothing that counts. Places are paths or fsspec URLs (s3://...); how
S3's errors are met stands in cluster/storage/files.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from cluster.storage import files as places
from cluster.storage.files import StorageError

MANIFEST = "manifest.json"
PIECE_BYTES = 2**25

Manifest = dict[str, Any]


class DamagedError(StorageError):
    """A document is missing, or is not what its manifest says."""


class Storage:
    """A worker that writes and reads documents, beside a driver that touches small things only."""

    def write(
        self, place: str, manifest: Manifest, small: Mapping[str, bytes], files: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Writes a document in place of any that was there: files (uint8 arrays or bytes) first, the manifest last.

        Returns {"files": sha256 by name, "bytes", "seconds"}. Raises OSError (a full disk, a bucket that denies) after removing what it
        wrote.
        """
        start = time.perf_counter()
        contents: dict[str, memoryview] = {name: memoryview(content) for name, content in {**small, **files}.items()}
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        remove(place)
        try:
            for name, content in contents.items():
                places.write(f"{place}/{name}", content)
            document = json.dumps({**manifest, "files": hashes}, indent=1, allow_nan=False)
            places.write(f"{place}/{MANIFEST}", memoryview(document.encode()))
        except BaseException:
            with suppress(OSError):  # what cannot be removed either has no manifest
                remove(place)
            raise
        num_bytes = sum(content.nbytes for content in contents.values())
        return {"files": hashes, "bytes": num_bytes, "seconds": time.perf_counter() - start}

    def read(self, place: str, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """({"bytes", "seconds"}, these files as uint8 arrays). Raises DamagedError if one is not as the manifest says."""
        start = time.perf_counter()
        hashes = read_manifest(place)["files"]
        files = {name: np.frombuffer(read_bytes(place, name), np.uint8) for name in names}
        for name, content in files.items():
            if hashlib.sha256(content.data).hexdigest() != hashes[name]:
                raise DamagedError(f"{place}/{name} does not have the hash that the manifest gives")
        num_bytes = sum(content.nbytes for content in files.values())
        return {"bytes": num_bytes, "seconds": time.perf_counter() - start}, files

    def remove(self, documents: Sequence[str]) -> None:
        """Removes documents; those that are gone already are passed over."""
        for place in documents:
            remove(place)

    def write_file(self, place: str, content: Any) -> dict[str, Any]:
        """Writes one file (a uint8 array or bytes), whole or not at all. Returns {"bytes", "seconds"}. Raises OSError."""
        start = time.perf_counter()
        view = memoryview(content)
        places.write(place, view)
        return {"bytes": view.nbytes, "seconds": time.perf_counter() - start}


def has_manifest(place: str) -> bool:
    """Whether a document was written to its end. Raises StorageError if that cannot be known."""
    return places.exists(f"{place}/{MANIFEST}")


def read_manifest(place: str) -> Manifest:
    """The manifest of a document. Raises DamagedError if there is none, or if it is not JSON."""
    try:
        manifest = json.loads(read_bytes(place, MANIFEST))
    except FileNotFoundError as error:
        raise DamagedError(f"{place} has no {MANIFEST}: it was not written to its end") from error
    except ValueError as error:
        raise DamagedError(f"{place}/{MANIFEST} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{place}/{MANIFEST} is damaged: it names no files")
    return manifest


def check(place: str, manifest: Manifest) -> None:
    """Raises DamagedError for the first file that is missing or altered. Reads all of them, piece by piece."""
    for name, sha256 in manifest["files"].items():
        digest = hashlib.sha256()
        try:
            end = places.size(f"{place}/{name}")
            for start in range(0, end, PIECE_BYTES):
                digest.update(places.read(f"{place}/{name}", start, min(start + PIECE_BYTES, end)))
        except FileNotFoundError as error:
            raise DamagedError(f"{place}/{name} is missing") from error
        if digest.hexdigest() != sha256:
            raise DamagedError(f"{place}/{name} does not have the hash that the manifest gives: it was cut or altered")


def read_bytes(place: str, name: str) -> bytes:
    """One file. Raises FileNotFoundError."""
    return places.read(f"{place}/{name}")


def remove(place: str) -> None:
    """Removes a document, its manifest first, so that what is left of it never counts."""
    places.remove(place, first=MANIFEST)
