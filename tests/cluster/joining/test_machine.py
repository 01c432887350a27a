"""What a machine lacks is said before Ray starts, with the number that is needed."""

from __future__ import annotations

import os
import socket

import pytest

from cluster.joining.machine import (
    LONGEST_SOCKET,
    OPEN_FILES,
    CannotStart,
    check_machine,
    check_open_files,
    check_store,
    check_temp_dir,
    free_shm_bytes,
)


def test_a_store_that_shared_memory_does_not_hold_is_refused_with_both_sizes() -> None:
    check_store(2**30, 2**30)
    with pytest.raises(
        CannotStart, match=r"/dev/shm has room for 64 MiB, and .* needs 1024 MiB.*--shm-size"
    ) as refused:
        check_store(2**30, 64 * 2**20)
    assert "cluster.object_store_mb" in str(refused.value)


def test_the_size_of_a_store_that_nobody_gave_fits_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.joining.machine.free_shm_bytes", lambda: 200 * 2**20)
    assert check_machine(None) == 200 * 2**20
    assert check_machine(150 * 2**20) == 150 * 2**20
    with pytest.raises(CannotStart):
        check_machine(201 * 2**20)
    monkeypatch.setenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    assert check_machine(201 * 2**20) == 201 * 2**20


def test_what_is_free_in_shared_memory_is_what_the_system_says() -> None:
    found = os.statvfs("/dev/shm")
    assert 0 < free_shm_bytes() <= found.f_frsize * found.f_blocks


def test_too_few_open_files_are_refused_with_the_number_that_is_needed() -> None:
    check_open_files(-1)
    check_open_files(OPEN_FILES)
    with pytest.raises(CannotStart, match=f"256 files here.*{OPEN_FILES}.*ulimit -n"):
        check_open_files(256)


def test_the_longest_allowed_folder_still_has_room_for_rays_sockets() -> None:
    with pytest.raises(CannotStart, match=r"80 bytes, .* allow (\d+): set RAY_TMPDIR") as refused:
        check_temp_dir("/" + "t" * 79)
    allowed = int(str(refused.value).partition("allow ")[2].partition(":")[0])
    check_temp_dir("/" + "t" * (allowed - 1))
    with pytest.raises(CannotStart):
        check_temp_dir("/" + "é" * (allowed - 1))
    address = f"/{'t' * (allowed - 1)}/{LONGEST_SOCKET}"
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(FileNotFoundError):
        one.bind(address)  # too long would be another error
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="too long"):
        one.bind(address + "x")
