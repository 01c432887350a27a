"""Documents at a path and on S3: whole or not there, altered files found, and an interrupted or failed writing that counts for nothing."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cluster.storage import documents
from cluster.storage.documents import DamagedError, Storage
from cluster.storage.files import folders

FILES = {"policy.bin": np.arange(100_000, dtype=np.uint8), "versions/000001.bin": np.full(7, 3, np.uint8)}
SMALL = {"records/metrics.jsonl": b'{"step": 1}\n'}


@pytest.fixture(params=["path", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def write(root: str, name: str = "step-000001", **manifest: object) -> str:
    Storage().write(f"{root}/{name}", manifest, SMALL, FILES)
    return f"{root}/{name}"


def test_what_is_written_comes_back(root: str) -> None:
    place = f"{root}/step-000001"
    written = Storage().write(place, {"step": 1}, SMALL, FILES)
    assert written["bytes"] == 100_000 + 7 + len(SMALL["records/metrics.jsonl"])
    manifest = documents.read_manifest(place)
    assert manifest == {"step": 1, "files": written["files"]}
    documents.check(place, manifest)
    assert documents.read_bytes(place, "records/metrics.jsonl") == SMALL["records/metrics.jsonl"]
    figures, files = Storage().read(place, list(FILES))
    assert figures["bytes"] == 100_007
    assert all(np.array_equal(files[name], FILES[name]) for name in FILES)


def test_folders_are_listed_and_removed(root: str) -> None:
    assert folders(root) == []
    places = [write(root, name) for name in ("step-000002", "step-000001")]
    assert folders(root) == sorted(places)
    Storage().remove([*places, f"{root}/step-000009"])
    assert folders(root) == []


def test_a_document_without_its_manifest_is_not_there(root: str) -> None:
    place = write(root)
    system, path = fsspec.core.url_to_fs(f"{place}/manifest.json")
    system.rm(path)
    with pytest.raises(DamagedError, match="not written to its end"):
        documents.read_manifest(place)


@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_damage_is_found_by_its_hash(root: str, damage: str) -> None:
    place = write(root)
    system, path = fsspec.core.url_to_fs(f"{place}/policy.bin")
    content = bytearray(FILES["policy.bin"].tobytes())
    content[5] ^= 1
    if damage == "missing":
        system.rm(path)
    else:
        system.pipe_file(path, bytes(content) if damage == "altered" else FILES["policy.bin"].tobytes()[:-1])
    with pytest.raises(DamagedError, match=r"policy\.bin"):
        documents.check(place, documents.read_manifest(place))
    with pytest.raises((DamagedError, FileNotFoundError)):
        Storage().read(place, ["policy.bin"])


def test_a_manifest_that_is_no_json_is_damage(root: str) -> None:
    place = write(root)
    system, path = fsspec.core.url_to_fs(f"{place}/manifest.json")
    system.pipe_file(path, b'{"step": 1, "fil')
    with pytest.raises(DamagedError, match="damaged"):
        documents.read_manifest(place)


def test_writing_again_replaces_what_was_there(root: str) -> None:
    place = write(root)
    Storage().write(place, {"step": 2}, {}, {"other.bin": np.zeros(3, np.uint8)})
    manifest = documents.read_manifest(place)
    assert (manifest["step"], list(manifest["files"])) == (2, ["other.bin"])
    with pytest.raises(FileNotFoundError):
        documents.read_bytes(place, "policy.bin")


def test_a_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk: the system refuses the write in the middle of a file."""
    script = (
        "import resource, signal, sys, numpy as np\n"
        "from cluster.storage.documents import Storage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "files = {'small.bin': np.zeros(10, np.uint8), 'large.bin': np.zeros(5000, np.uint8)}\n"
        "try:\n"
        "    Storage().write(sys.argv[1] + '/step-000001', {'step': 1}, {}, files)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_leaves_no_document(tmp_path: Path) -> None:
    """Killed again and again in the middle: what has a manifest is whole, what was being written has none."""
    script = (
        "import sys, numpy as np\n"
        "from cluster.storage.documents import Storage\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    files = {f'{i}.bin': np.full(1 << 20, step % 256, np.uint8) for i in range(20)}\n"
        "    Storage().write(f'{sys.argv[1]}/step-{step % 3:06d}', {'step': step}, {}, files)\n"
        "    print(step, flush=True)\n"
    )
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        while not (begun := [place for place in folders(str(tmp_path)) if not has_manifest(place)]):
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for place in folders(str(tmp_path)):
            if has_manifest(place):
                documents.check(place, documents.read_manifest(place))
        assert any(not has_manifest(place) for place in begun)


def has_manifest(place: str) -> bool:
    return (Path(place) / "manifest.json").is_file()
