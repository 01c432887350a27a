"""Whole runs whose checkpoints lie on an S3 in bad moods: these cost time or a checkpoint, never the result, and never a run begun anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.storage.documents import StorageError
from cluster.storage.files import folders
from pipelines.engine.checkpoint import newest
from tests.support.flaky_s3 import FlakyS3
from tests.support.plain_run import in_no_time

STEPS = 3


def train(recipe: Path, out: Path, *options: str, **values: object) -> int:
    settings = {"loop.steps": STEPS, "loop.checkpoint_every": 1, "loop.keep_checkpoints": 9, **values}
    words = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    return in_no_time([str(recipe), "--out", str(out), "--executor", "local", *words, *options])


def digest_of(out: Path) -> str:
    return json.loads((out / "summary.json").read_text())["digest"]


def events_of(out: Path, kind: str) -> list[dict]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == kind]


@pytest.fixture(scope="module")
def reference(plain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run whose checkpoints lie on a disk."""
    out = tmp_path_factory.mktemp("reference") / "run"
    assert train(plain_world, out) == 0
    return digest_of(out)


@pytest.fixture(scope="module")
def saved(plain_world: Path, s3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run, and where its checkpoints lie."""
    out = tmp_path_factory.mktemp("saved") / "run"
    root = f"{s3}/{out.parent.name}"
    assert train(plain_world, out, loop__checkpoints=root) == 0
    return out, root


def test_moods_that_pass_change_nothing(
    reference: str, plain_world: Path, s3: str, flaky_s3: FlakyS3, tmp_path: Path
) -> None:
    flaky_s3.reset(1, "list-type")
    flaky_s3.fail(1, 503, "PUT")
    flaky_s3.fail(1, 500, "manifest.json")
    root = f"{s3}/{tmp_path.name}"
    assert train(plain_world, tmp_path / "run", loop__checkpoints=root) == 0
    assert digest_of(tmp_path / "run") == reference
    found, problems = newest(root)
    assert found is not None
    assert (found.manifest.step, found.manifest.digest, problems) == (STEPS, reference, [])


def test_a_checkpoint_that_is_denied_is_said_and_the_run_goes_on(
    reference: str, plain_world: Path, s3: str, flaky_s3: FlakyS3, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flaky_s3.fail(status=403, request=f"PUT /runs/{tmp_path.name}/step-000002/")
    root = f"{s3}/{tmp_path.name}"
    assert train(plain_world, tmp_path / "run", loop__checkpoints=root) == 0
    assert digest_of(tmp_path / "run") == reference
    (failed,) = events_of(tmp_path / "run", "checkpoint_failed")
    assert failed["step"] == 2
    assert "access is denied" in failed["message"]
    assert "checkpoint of step 2 could not be written" in capsys.readouterr().out
    assert folders(root) == [f"{root}/step-000001", f"{root}/step-000003"]


@pytest.mark.parametrize(
    "request_", ["list-type", "step-000003/manifest.json", "step-000003/policy"], ids=["list", "manifest", "file"]
)
def test_what_is_denied_is_not_taken_for_missing_or_damaged(saved, flaky_s3: FlakyS3, request_: str) -> None:
    flaky_s3.fail(status=403, request=request_)
    with pytest.raises(StorageError, match="access is denied"):
        newest(saved[1])
    flaky_s3.calm()
    found, _ = newest(saved[1])
    assert found is not None
    assert found.manifest.step == STEPS


@pytest.mark.parametrize("denied", [True, False], ids=["denied", "no bucket"])
def test_a_run_does_not_begin_anew_where_its_checkpoints_cannot_be_seen(
    saved, plain_world: Path, flaky_s3: FlakyS3, denied: bool, capsys: pytest.CaptureFixture
) -> None:
    out, root = saved
    before = (out / "metrics.jsonl").read_bytes()
    if denied:
        flaky_s3.fail(status=403)
    else:
        root = "s3://nowhere/run"
    assert train(plain_world, out, "--resume", loop__checkpoints=root) != 0
    said = capsys.readouterr().err
    assert root in said
    assert ("access is denied" if denied else "there is no bucket nowhere") in said
    assert (out / "metrics.jsonl").read_bytes() == before
