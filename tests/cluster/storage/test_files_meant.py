"""What a user means by a path or a URL, and what is no place: names that look like URLs, unset variables, names too long."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from cluster.storage import documents, files
from cluster.storage.files import StorageError

ODD_NAMES = (
    "exp::1",
    "with space; x",
    "a'b\"c",
    "läuf ☃",
    "[/b] :smile:",
    "$HOME",
    "-x",
    "a?b#c%20d*",
    "~",
    "~x",
    "x.y:z",
)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("runs/a", "runs/a"),
        ("runs/a///", "runs/a"),
        ("/", "/"),
        ("./~x", "./~x"),
        ("a~b", "a~b"),
        ("./s3:/b", "./s3:/b"),
        ("exp::1", "exp::1"),
        ("12:30", "12:30"),
        ("file:///data/run/", "/data/run"),
        ("file:///", "/"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/run/", "s3://bucket/run"),
        ("s3://bucket/exp::1", "s3://bucket/exp::1"),
        ("hdfs:///runs/a", "hdfs:///runs/a"),
    ],
)
def test_a_place_is_what_the_user_meant(given: str, meant: str) -> None:
    assert files.resolved(given) == meant


@pytest.mark.parametrize(
    ("given", "why"),
    [
        *((empty, "it is empty") for empty in ("", " ", "\t")),
        *((bare, "names no bucket") for bare in ("s3://", "s3:///", "s3:////", "gs://", "hdfs:///", "s3:///runs/a")),
        *((gap, "a name between its slashes") for gap in ("s3://b//run", "s3://b/runs/../x", "s3://b/./x")),
        *((typo, "two slashes after its colon") for typo in ("s3:/bucket/run", "file:/data/run", "gs:/b")),
        *((host, "it has a host, or is not absolute") for host in ("file://data/run", "file://")),
        ("runs/\udcff", "it is not text in UTF-8"),
        ("runs/\0", "it is not text in UTF-8"),
    ],
)
def test_what_names_no_place_is_an_error(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        files.resolved(given)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_local_name_is_never_read_as_a_url_or_a_pattern(name: str, tmp_path: Path) -> None:
    place = str(tmp_path / name / "checkpoints")
    files.check_writable(place)
    files.write(f"{place}/step-1/file", memoryview(b"x"))
    assert os.listdir(tmp_path / name / "checkpoints") == ["step-1"]
    assert files.folders(place) == [f"{place}/step-1"]
    assert files.files(place) == ["step-1/file"]
    assert files.read(f"{place}/step-1/file") == b"x"
    documents.remove(f"{place}/step-1")
    assert files.folders(place) == []


def test_a_name_in_s3_is_what_it_is(s3: str) -> None:
    for name in ODD_NAMES:
        root = f"{s3}/odd/{name}"
        files.check_writable(root)
        files.write(f"{root}/step-1/file", memoryview(name.encode()))
        assert files.files(root) == ["step-1/file"]
        assert files.folders(root) == [f"{root}/step-1"]
        assert files.read(f"{root}/step-1/file") == name.encode()


def test_marks_that_consoles_leave_for_folders_are_no_files(s3: str) -> None:
    system = fsspec.filesystem("s3")
    for key in ("mk/", "mk/sub/", "mk/sub_$folder$", "mk/sub/file"):
        system.call_s3("put_object", Bucket="runs", Key=key, Body=b"x" if key.endswith("file") else b"")
    assert files.files(f"{s3}/mk") == ["sub/file"]
    assert files.folders(f"{s3}/mk") == [f"{s3}/mk/sub"]
    documents.remove(f"{s3}/mk/sub")
    assert files.folders(f"{s3}/mk") == []


@pytest.mark.parametrize("place", ["{here}/" + "x" * 256, "{here}/" + "ä" * 128, "{here}" + "/ab" * 1300])
def test_a_name_that_is_too_long_is_told_before_anything_is_made(place: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be written: .* bytes, and .*\. Give a shorter name"):
        files.check_writable(place.format(here=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 256, "/".join(["ab" * 50] * 10)])
def test_a_key_that_is_too_long_is_told(name: str, s3: str) -> None:
    with pytest.raises(StorageError, match="Give a shorter name"):
        files.check_writable(f"{s3}/{name}")


def test_a_link_to_nothing_and_a_file_on_the_way_are_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").touch()
    for place, why in (
        ("link", "link is a link to nothing"),
        ("link/run", "link to nothing"),
        ("file/a/b", "file is a file"),
    ):
        with pytest.raises(StorageError, match=why):
            files.check_writable(str(tmp_path / place))


@pytest.mark.parametrize("url", ["nothing://b/run", "simplecache::s3://b/run"])
def test_a_protocol_that_is_not_known_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="not known"):
        files.check_writable(url)
