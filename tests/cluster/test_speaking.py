"""What programs say: users' text comes out as it is, and no terminal, pipe, disk or encoding makes speaking an error."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from ray.exceptions import RayError
from rich.table import Table

from actors.mistake import Mistake
from cluster import errors, speaking
from cluster.control.client import RunGone
from cluster.joining.address import CannotJoin
from cluster.joining.machine import CannotStart
from cluster.placement.fit import PlacementError
from cluster.speaking import Outlet
from cluster.storage.files import StorageError
from cluster.tasks import WorkerMistakeError, WorkerStartError
from cluster.workers.ray_errors import in_its_words
from pipelines.preflight.packages import ROOT
from pipelines.recipe.errors import RunFailed, UserError
from pipelines.run_folder.lease import PlaceTaken
from pipelines.submitting.job_server import ClusterLost, Refused

ODD = "size [/cm] :smile: [bold]läuf[/]"
TALKS = """
import sys
from cluster import speaking

@speaking.program
def main(arguments=None):
    print("a first line")
    for number in range(int(sys.argv[1])):
        speaking.say(speaking.console(), f"line {number}: ä – [/b]")
        print("in the language of Python: ±", file=sys.stderr)
    return speaking.fail("error", "the end: ▁▂▃", 0)

sys.exit(main())
"""


def exit_code_of_a_program(redirected: str, lines: int = 3, **variables: str) -> int:
    """That of a small program in a shell, with its output redirected so."""
    shell = ["bash", "-c", f'"$@" {redirected}; exit ${{PIPESTATUS[0]}}', "-", sys.executable, "-c", TALKS, str(lines)]
    return subprocess.run(shell, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **variables}, timeout=60).returncode


@pytest.mark.parametrize(
    "redirected",
    [
        *("| true", "2>&1 | true", "| head -1 > /dev/null", "> /dev/full", "2> /dev/full", "&> /dev/full"),
        *(">&-", "2>&-", "0<&- >&- 2>&-"),
    ],
)
def test_no_loss_of_a_standard_file_changes_the_exit_code(redirected: str) -> None:
    assert exit_code_of_a_program(redirected, lines=2000 if "|" in redirected else 3) == 0


def test_what_an_encoding_lacks_is_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    outlet = Outlet(stream)
    outlet.write("a run in läuf\udcff ± 0.1\n")
    outlet.flush()
    assert stream.buffer.getvalue() == b"a run in l?uf? ? 0.1\n"
    assert outlet.lost is None
    assert exit_code_of_a_program("> /dev/null 2>&1", PYTHONIOENCODING="ascii:strict") == 0


def test_an_outlet_that_is_lost_says_why_and_drops_the_rest() -> None:
    with open("/dev/full", "w") as stream:
        outlet = Outlet(stream)
        console = speaking.console(file=outlet)
        assert speaking.lost(console) is None
        speaking.say(console, "one")
        speaking.say(console, "two")
        assert "No space left" in str(speaking.lost(console))


def test_a_closed_file_is_not_given_to_the_next_one_that_is_opened() -> None:
    script = (
        "import os, sys\nfrom cluster import speaking\n"
        "with speaking.outlets():\n    file = open(os.devnull)\n    sys.exit(file.fileno() < 3)"
    )
    command = f"{sys.executable} -c '{script}' 0<&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT, timeout=60).returncode == 0


def test_the_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with speaking.outlets():
        assert isinstance(sys.stdout, Outlet)
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (UserError("what was given"), "error", 2),
        (Mistake("what was given"), "error", 2),
        (errors.UserError("what was given"), "error", 2),
        (CannotJoin("what was given"), "error", 2),
        (CannotStart("what was given"), "error", 2),
        (PlacementError("what was given"), "error", 2),
        (WorkerMistakeError("what was given"), "error", 2),
        (WorkerStartError("its own error"), "failed", 1),
        (RunGone("the run has ended"), "failed", 1),
        (RunFailed("why"), "failed", 1),
        (PlaceTaken("who has it"), "failed", 1),
        (ClusterLost("for how long"), "failed", 1),
        (Refused(500, "its answer"), "failed", 1),
        (OSError("the disk is full"), "failed", 1),
        (StorageError("the bucket is gone"), "failed", 1),
    ],
    ids=lambda value: type(value).__module__ + "." + type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_that_says_all_ends_any_program_in_a_sentence_by_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str, code: int
) -> None:
    @speaking.program
    def main(arguments: object = None) -> int:
        raise error

    assert main() == code
    assert capsys.readouterr().err == f"{said} {error}\n"


def test_what_ray_raises_is_told_in_rays_words(capsys: pytest.CaptureFixture[str]) -> None:
    @speaking.program
    def main(arguments: object = None) -> int:
        with in_its_words():
            raise RayError("no such node")

    assert main() == 1
    assert capsys.readouterr().err == "failed no such node\n"


def test_an_error_of_another_kind_is_a_fault_of_the_program() -> None:
    @speaking.program
    def main(arguments: object = None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_users_text_is_shown_as_it_is_in_lines_and_tables() -> None:
    out = io.StringIO()
    console = speaking.console(file=out, width=100)
    table = Table(title=ODD)
    table.add_column(ODD)
    table.add_row(ODD)
    console.print(table, ODD)
    speaking.say(console, ODD, "error", "bold red")
    assert out.getvalue().count(ODD) == 5


def test_programs_make_their_consoles_here_alone() -> None:
    files = [path for room in ("pipelines", "cluster") for path in (ROOT / room).rglob("*.py")]
    elsewhere = [str(path) for path in files if "Console(" in path.read_text() or "rich.markup" in path.read_text()]
    assert elsewhere == [str(ROOT / "cluster" / "speaking.py")]
