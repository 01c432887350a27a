"""Workers that cannot use what they were given end the run at once, with one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Start


def test_a_judge_that_only_the_worker_finds_broken(start_tiny: Start, tiny_world: Path, tmp_path: Path) -> None:
    """The driver's checks find all files whole; its template asks for what no one sends."""
    judge = Path(shutil.copytree(tiny_world.parent / "judge", tmp_path / "judge"))
    (judge / "chat_template.jinja").write_text("{{ raise_exception('a system message comes first') }}")
    deadline_s = 120.0
    run = start_tiny(reward__model=judge, loop__steps=2, cluster__start_timeout_s=deadline_s)
    assert run.end(seconds=deadline_s) == 2
    said = " ".join(run.output().split())
    assert "a system message comes first" in said
    assert "Traceback" not in said, "neither Python's"
    assert "Stack trace" not in said, "nor that of Ray's own process"
    assert not RunFolder.holds_run(run.out)
