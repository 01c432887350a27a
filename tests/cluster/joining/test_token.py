"""The file that holds the token of a run's own Ray."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster.joining.token import keep_token


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_random_and_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for name in ("one", "other"):
            keep_token(tmp_path / name / "ray_token")
    finally:
        os.umask(before)
    one, other = (tmp_path / name / "ray_token" for name in ("one", "other"))
    assert mode(one) == mode(other) == 0o600
    assert one.read_text() != other.read_text()
    assert len(one.read_text()) == 64


def test_a_resumed_run_keeps_its_token(tmp_path: Path) -> None:
    path = tmp_path / "ray_token"
    keep_token(path)
    token = path.read_text()
    keep_token(path)
    assert path.read_text() == token


@pytest.mark.parametrize("spoil", ["readable", "empty", "a link"])
def test_a_token_that_others_may_know_is_replaced(tmp_path: Path, spoil: str) -> None:
    path, elsewhere = tmp_path / "ray_token", tmp_path / "elsewhere"
    known = "0" * 64 if spoil != "empty" else ""
    target = elsewhere if spoil == "a link" else path
    target.write_text(known)
    target.chmod(0o644 if spoil == "readable" else 0o600)
    if spoil == "a link":
        path.symlink_to(elsewhere)
    keep_token(path)
    assert path.read_text() != known
    assert mode(path) == 0o600
    assert not path.is_symlink()
    assert not elsewhere.exists() or elsewhere.read_text() == known
