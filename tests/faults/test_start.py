"""Workers that cannot use what they were given end the run at once, with one sentence.

tests/pipelines/test_mistakes.py says the same of a real judge, without Ray.
"""

from __future__ import annotations

from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Start
from tests.support.plain_world import BROKEN


def test_a_judge_that_only_the_worker_finds_broken(start: Start) -> None:
    deadline_s = 120.0
    run = start(reward__model=BROKEN, loop__steps=2, cluster__start_timeout_s=deadline_s)
    assert run.end(seconds=deadline_s) == 2
    said = " ".join(run.output().split())
    assert f"{BROKEN} cannot be used" in said
    assert "Traceback" not in said, "neither Python's"
    assert "Stack trace" not in said, "nor that of Ray's own process"
    assert not RunFolder.holds_run(run.out)
