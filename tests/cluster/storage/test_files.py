"""S3 in bad moods: what passes is asked for again, what stays is said in words, and nothing is left half-written or taken for empty."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cluster.storage import documents, files
from cluster.storage.documents import Storage, StorageError
from tests.support.flaky_s3 import FlakyS3

FILES = {"policy.bin": np.arange(100_000, dtype=np.uint8), "versions/000001.bin": np.full(7, 3, np.uint8)}
MOODS: dict[str, Callable[[FlakyS3, str], None]] = {
    "503": lambda server, request: server.fail(1, 503, request),
    "500": lambda server, request: server.fail(1, 500, request),
    "reset": lambda server, request: server.reset(1, request),
    "hang": lambda server, request: server.hang(30.0, 1, request),
    "cut": lambda server, request: server.cut(1, request),
}
CALLS: dict[str, Callable[[str], object]] = {
    "written": lambda root: Storage().write(f"{root}/new", {}, {}, FILES),
    "listed": files.folders,
    "read": lambda root: documents.read_manifest(f"{root}/old"),
    "removed": lambda root: documents.remove(f"{root}/old"),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that hangs is given up after half a second."""
    monkeypatch.setattr(files, "PATIENT", {**files.PATIENT, "read_timeout": 0.5})


@pytest.fixture
def root(s3: str, flaky_s3: FlakyS3, impatient: None, tmp_path: Path) -> str:
    """A place with one document, `old`."""
    root = f"{s3}/{tmp_path.name}"
    Storage().write(f"{root}/old", {"step": 1}, {}, FILES)
    flaky_s3.requests.clear()
    return root


def files_at(place: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(place, use_listings_cache=False)
    return sorted(name.removeprefix(f"{path}/") for name in system.find(path))


@pytest.mark.parametrize("mood", MOODS)
def test_a_mood_that_passes_is_not_noticed(root: str, flaky_s3: FlakyS3, mood: str) -> None:
    upset = MOODS[mood]
    upset(flaky_s3, "PUT")
    Storage().write(f"{root}/new", {"step": 2}, {}, FILES)
    upset(flaky_s3, "list-type")
    assert files.folders(root) == [f"{root}/new", f"{root}/old"]
    upset(flaky_s3, "GET")
    manifest = documents.read_manifest(f"{root}/new")
    assert manifest["step"] == 2
    upset(flaky_s3, "/policy.bin")
    documents.check(f"{root}/new", manifest)
    upset(flaky_s3, "DELETE")
    documents.remove(f"{root}/old")
    assert files.folders(root) == [f"{root}/new"]


@pytest.mark.parametrize("done", CALLS)
def test_what_is_denied_is_said_at_once(root: str, flaky_s3: FlakyS3, done: str) -> None:
    flaky_s3.fail(status=403)
    with pytest.raises(StorageError, match=rf"{root}.* cannot be .*: access is denied .* s3:ListBucket"):
        CALLS[done](root)
    tried = [request for request in flaky_s3.requests if "list-type" not in request]
    assert len(tried) == len(set(tried)), "no request was made twice"


@pytest.mark.parametrize("done", ["written", "listed", "read"])
def test_a_bucket_that_is_missing_is_not_an_empty_one(root: str, done: str) -> None:
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        CALLS[done]("s3://nowhere/run")


def test_a_mood_that_stays_is_said_after_some_tries(root: str, flaky_s3: FlakyS3, monkeypatch) -> None:
    twice = {"mode": "standard", "total_max_attempts": 2}
    monkeypatch.setattr(files, "PATIENT", {**files.PATIENT, "retries": twice})
    flaky_s3.fail(status=503)
    with pytest.raises(StorageError, match="cannot be listed: the service answers SlowDown"):
        files.folders(root)
    assert len(flaky_s3.requests) == 2
    flaky_s3.calm()
    flaky_s3.hang(30.0)
    with pytest.raises(StorageError, match=r"cannot be listed: Read timeout .* AWS_ENDPOINT_URL"):
        files.folders(root)
    assert len(flaky_s3.requests) == 2


def test_a_writing_that_is_denied_half_way_leaves_nothing(root: str, flaky_s3: FlakyS3) -> None:
    flaky_s3.fail(status=403, request="PUT /runs/" + root.rpartition("/")[2] + "/new/versions")
    with pytest.raises(StorageError, match=r"new/versions/000001\.bin cannot be written"):
        Storage().write(f"{root}/new", {}, {}, FILES)
    assert files_at(f"{root}/new") == []
    assert files.folders(root) == [f"{root}/old"]


def test_an_upload_in_parts_that_fails_is_given_up_on_both_sides(root: str, flaky_s3: FlakyS3) -> None:
    flaky_s3.fail(status=403, request="partNumber=2")
    with pytest.raises(StorageError, match=r"large\.bin cannot be written"):
        Storage().write(f"{root}/new", {}, {}, {"large.bin": np.zeros(101 * 2**20, np.uint8)})
    assert any(request.startswith("DELETE") and "uploadId" in request for request in flaky_s3.requests)
    assert fsspec.filesystem("s3").call_s3("list_multipart_uploads", Bucket="runs").get("Uploads", []) == []
    assert files_at(f"{root}/new") == []


def test_a_file_on_its_own_is_written_whole_or_not_at_all(root: str, flaky_s3: FlakyS3, tmp_path: Path) -> None:
    content = np.arange(300, dtype=np.uint8)
    for place in (f"{root}/samples/step-000001.parquet", str(tmp_path / "samples" / "step-000001.parquet")):
        for _ in range(2):
            assert Storage().write_file(place, content)["bytes"] == 300
        assert files.read(place) == content.tobytes()
    (tmp_path / "samples" / "step-000002.parquet").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        Storage().write_file(str(tmp_path / "samples" / "step-000002.parquet"), content)
    assert not list(tmp_path.rglob("*.tmp"))
    flaky_s3.fail(status=403, request="PUT")
    with pytest.raises(StorageError, match=r"step-000002\.parquet cannot be written: access is denied"):
        Storage().write_file(f"{root}/samples/step-000002.parquet", content)
    assert files_at(f"{root}/samples") == ["step-000001.parquet"]


def test_a_removal_that_fails_half_way_leaves_no_manifest(root: str, flaky_s3: FlakyS3) -> None:
    flaky_s3.fail(status=403, request="/policy.bin")
    with pytest.raises(StorageError, match="old cannot be removed: access is denied"):
        documents.remove(f"{root}/old")
    assert "manifest.json" not in files_at(f"{root}/old")
    assert not documents.has_manifest(f"{root}/old")


def test_a_probe_leaves_nothing(root: str, tmp_path: Path) -> None:
    files.check_writable(f"{root}/new")
    assert files.folders(root) == [f"{root}/old"]
    files.check_writable(str(tmp_path / "run" / "checkpoints"))
    assert list(tmp_path.iterdir()) == []


def test_a_probe_finds_what_is_denied(root: str, flaky_s3: FlakyS3) -> None:
    flaky_s3.fail(status=403, request="DELETE")
    with pytest.raises(StorageError, match="access is denied"):
        files.check_writable(root)
    flaky_s3.fail(status=403, request="PUT")
    with pytest.raises(StorageError, match="access is denied"):
        files.check_writable(root)
    flaky_s3.calm()
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        files.check_writable("s3://nowhere/run")


def test_a_probe_finds_that_nobody_answers(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(
        files, "BRIEF", {**files.BRIEF, "connect_timeout": 2}
    )  # a client of its own, with this endpoint
    with pytest.raises(StorageError, match=f"127.0.0.1:{port}.* AWS_ENDPOINT_URL"):
        files.check_writable("s3://runs/run")


def test_a_probe_finds_a_file_in_the_way_and_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file is a file"):
        files.check_writable(str(tmp_path / "file" / "run"))
    script = (
        "import resource, signal, sys\n"
        "from cluster.storage.documents import StorageError; from cluster.storage.files import check_writable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        "    check_writable(sys.argv[1] + '/run')\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"{tmp_path}/run cannot be written: File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
