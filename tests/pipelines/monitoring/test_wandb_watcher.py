"""Weights & Biases, offline: asked for before anything starts, and one run over all starts."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from pipelines.monitoring.wandb_watcher import check_wandb, run_id
from pipelines.recipe.errors import UserError
from pipelines.run_folder.folder import RunFolder
from tests.support.plain_run import in_no_time

OPTIONS = ["--executor", "local", "--set", "monitor.wandb=echoray", "--set", "heldout.every=1000"]


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # it remembers the environment of its first use


def test_without_the_extra_the_run_does_not_begin(
    plain_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), *OPTIONS]) == 2
    assert "pip install --editable '.[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_a_key_the_run_does_not_begin_and_offline_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        check_wandb("echoray")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_wandb("echoray")


def test_every_step_is_logged_and_a_resume_goes_on_with_the_same_run(
    plain_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    assert in_no_time([str(plain_world), "--out", str(out), *OPTIONS, "--set", "loop.steps=2"]) == 0
    assert [record["step"] for record in logged(out) if "learning/reward_mean" in record] == [1, 2]
    assert in_no_time([str(plain_world), "--out", str(out), *OPTIONS, "--set", "loop.steps=2", "--resume"]) == 0
    records = logged(out)
    assert [record["step"] for record in records if "learning/reward_mean" in record] == [1, 2], (
        "nothing was left to train"
    )
    assert {record["step"] for record in records if "learning/heldout_reward/1" in record} == {0, 2}
    runs = sorted((out / "wandb").glob("offline-run-*"))
    assert {run.name.rpartition("-")[2] for run in runs} == {run_id(RunFolder(out))}


def logged(folder: Path) -> list[dict[str, Any]]:
    """What was logged by all starts: each leaves a file of records, in LevelDB's format of logs."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    records = (record for file in files for record in records_of(file.read_bytes()))
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def records_of(content: bytes) -> Iterator[Record]:
    """Records lie in parts (checksum, length, kind, bytes) in blocks of 32 KiB, behind a header of 7 bytes."""
    place, gathered = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        gathered += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(gathered)
            gathered = b""
