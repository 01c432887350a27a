"""Run folders as a power cut, a full disk or a mistake leaves them: `--resume` mends them, readers say which file it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import report
from pipelines.planning.measured import read_run
from pipelines.recipe.errors import UserError
from pipelines.run_folder.folder import RunFolder
from tests.support.plain_run import in_no_time

OBJECT, LINES, TABLE, PICTURE = '{"started": 1.5}', '{"step": 1, "kind": "failure"}\n', "[loop]\nsteps = 3\n", "PNG"
FILES = {
    "status.json": OBJECT,
    "summary.json": OBJECT,
    "recipe.toml": TABLE,
    "metrics.jsonl": LINES,
    "heldout.jsonl": LINES,
    "events.jsonl": LINES,
}
BINARY = b"\x89PNG\r\n\x1a\n\x00\xff\xfe\n"
WHOLE = ("status.json", "summary.json", "recipe.toml")
DAMAGE = {
    "empty": b"",
    "zeros": bytes(512),
    "binary": BINARY,
    "half": b'{"started": 17, "cha',
    "no UTF-8": b'{"a": "\xe9"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "another type": b"[1]\n",
}
UNHARMED = {"empty", "zeros", "half"}  # of lines: nothing, or one that is not written to its end


def damaged(tmp_path: Path, name: str, content: bytes) -> RunFolder:
    """A run folder of which one file has another content."""
    folder = RunFolder.create(tmp_path / "run", TABLE)
    for other in ("metrics.jsonl", "heldout.jsonl", "events.jsonl"):
        (folder.path / other).touch()
    (folder.path / name).write_bytes(content)
    return folder


def cases(lines: bool) -> list[tuple[str, str]]:
    found = [(name, kind) for name in FILES for kind in DAMAGE if (name in WHOLE) != lines]
    return [case for case in found if case != ("recipe.toml", "another type")]  # it is TOML


@pytest.mark.parametrize(
    ("name", "kind"), [*cases(lines=False), *(case for case in cases(lines=True) if case[1] not in UNHARMED)]
)
def test_the_report_names_a_damaged_file_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    folder = damaged(tmp_path, name, DAMAGE[kind])
    assert report.main([str(folder.path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{folder.path / name} is damaged: " in said
    assert "--resume" in said


def test_the_report_names_a_damaged_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = damaged(tmp_path, "events.jsonl", b"")
    folder.grid_path("before").parent.mkdir()
    folder.grid_path("before").touch()
    assert report.main([str(folder.path)]) == 2
    assert "before.png is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "kind"), cases(lines=False) + cases(lines=True))
def test_a_mended_folder_can_be_read_and_written_and_keeps_what_it_was(tmp_path: Path, name: str, kind: str) -> None:
    folder = damaged(tmp_path, name, DAMAGE[kind])
    before = folder.path.joinpath(name).read_bytes()
    mended = folder.mend()
    if before:
        assert (folder.path / f"{name}.damaged").read_bytes() == before
    assert [line.fields["message"] for line in folder.read_events()] == mended
    assert len(mended) == (0 if (name, kind) in [(each, "empty") for each in FILES if each not in WHOLE] else 1)
    assert not mended or mended[0].startswith(f"{name} was damaged (")
    folder.state("stopped")
    assert (folder.read_state()["status"], folder.read_summary()) == ("stopped", {})
    assert folder.read_metrics() == folder.read_heldout() == []
    assert folder.mend() == []


def test_whole_lines_before_and_after_a_damaged_one_stay(tmp_path: Path) -> None:
    folder = damaged(tmp_path, "events.jsonl", b'{"kind": "a"}\n' + bytes(64) + b'{"kind": "b"}\n{"kind": "c"}\n{"ki')
    (said,) = folder.mend()
    assert "line 2" in said
    assert [line.kind for line in folder.read_events()] == ["a", "c", "mended"]


def test_a_new_run_on_a_folder_with_a_damaged_status_is_refused_as_on_any_other(tmp_path: Path) -> None:
    folder = damaged(tmp_path, "status.json", b"")
    with pytest.raises(UserError, match=r"already holds a run \(status: unknown\)"):
        RunFolder.check_new(folder.path)


@pytest.mark.parametrize(("name", "kind"), [("recipe.toml", "empty"), ("metrics.jsonl", "binary")])
def test_a_plan_names_a_damaged_file(plain_world: Path, tmp_path: Path, name: str, kind: str) -> None:
    folder = RunFolder.create(tmp_path / "run", plain_world.read_text())
    (folder.path / name).write_bytes(DAMAGE[kind])
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        read_run(str(folder.path))


def test_a_run_of_which_everything_is_damaged_goes_on_to_the_same_digest(
    plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its records come back from its checkpoint, its recipe from the command line."""
    out = tmp_path / "run"
    command = [str(plain_world), "--out", str(out), "--executor", "local", "--set", "heldout.every=1000"]
    assert in_no_time(command) == 0
    folder = RunFolder(out)
    digest, steps = folder.read_summary()["digest"], [record.step for record in folder.read_metrics()]
    for name, content in zip(FILES, [b"", b"{", bytes(9), BINARY, b'{"a', b"\xff\n"], strict=True):
        (out / name).write_bytes(content)
    assert in_no_time([*command, "--resume"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name in FILES:
        assert f"{name} was damaged" in said
    assert folder.read_summary()["digest"] == digest
    assert [record.step for record in folder.read_metrics()] == steps
    assert folder.read_state()["status"] == "done"
