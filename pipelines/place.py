"""Where a run folder lies: on this disk, or at a URL such as s3://bucket/run with a copy here that the run works on.

An object store cannot add a line to a file, and must not make the loop wait. So the run writes a folder on this disk, and a
thread keeps the URL equal to it: each file whole, the changed ones every PUSH_EVERY_S. A driver that is killed loses the
events of that time; its steps come back from the checkpoint, which is written to the URL directly.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import fsspec

from pipelines.config import UserError

PUSH_EVERY_S = 15.0
ELSEWHERE = ("checkpoints/", "samples/shards/")  # written to the URL directly


class Place:
    """A run folder's place, from `--out`: `path` on this disk, `url` if it lies elsewhere, `shown` to people.

    A context manager: on entry it brings what lies at the URL, on exit it takes the last changes there. Raises UserError for
    a URL that cannot be read, and OSError if the last changes cannot be written: then the copy stays.
    """

    def __init__(self, out: str) -> None:
        self.shown = out.rstrip("/")
        self.url = self.shown if "://" in out else None
        self.name = self.shown.rpartition("/")[2]
        self.path = Path(tempfile.mkdtemp(prefix="echoray-"), self.name) if self.url else Path(out)
        self._copy = Copy(self.path, self.url) if self.url else None

    @property
    def checkpoints(self) -> str:
        """Where checkpoints go unless the recipe says otherwise."""
        return f"{self.url or self.path.absolute()}/checkpoints"

    def watch(self, note: Callable[[str], None]) -> None:
        """From now on changes go to the URL; `note` is told when they cannot."""
        if self._copy:
            self._copy.watch(note)

    def __enter__(self) -> Place:
        if self._copy:
            try:
                self._copy.pull()
            except BaseException:
                shutil.rmtree(self.path.parent)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._copy:
            return
        try:
            self._copy.close()
        except OSError as failure:
            text = f"the last state of the run folder could not be written to {self.url} ({failure}); it is kept in {self.path}"
            if error is None:
                raise OSError(text) from failure
            error.add_note(text)
        else:
            shutil.rmtree(self.path.parent)


class Copy:
    """A folder on this disk and its equal at a URL."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._pushed: dict[str, tuple[int, int]] = {}  # name -> (modified at, bytes)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pull(self) -> None:
        """Brings the files that a run adds to. Raises UserError if the URL cannot be read."""
        self.path.mkdir(parents=True)
        try:
            system, root = fsspec.core.url_to_fs(self.url)
            system.invalidate_cache()
            names = [place.removeprefix(root).lstrip("/") for place in system.find(root)]
            for name in names:
                if not name.startswith(ELSEWHERE):
                    system.get_file(f"{root}/{name}", self._made(name))
                    self._pushed[name] = self._state(name)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"--out {self.url} cannot be read: {error}") from error

    def watch(self, note: Callable[[str], None]) -> None:
        """Takes changes to the URL from now on, in a thread."""
        self._thread = threading.Thread(target=self._push_again_and_again, args=(note,), name="run folder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes the last changes, if any were to be taken at all. Raises OSError."""
        if self._thread:
            self._stop.set()
            self._thread.join()
            self.push()

    def push(self) -> None:
        """Takes what has changed to the URL. Raises OSError for the first file that cannot be written; others stay to be taken."""
        system, root = fsspec.core.url_to_fs(self.url)
        for file in sorted(self.path.rglob("*")):
            name = file.relative_to(self.path).as_posix()
            if file.is_dir() or file.suffix == ".tmp":
                continue
            state = self._state(name)
            if self._pushed.get(name) != state:
                system.pipe_file(f"{root}/{name}", file.read_bytes())
                self._pushed[name] = state

    def _push_again_and_again(self, note: Callable[[str], None]) -> None:
        failed = False
        while True:
            try:
                self.push()
                if failed:
                    note(f"the run folder reaches {self.url} again")
                failed = False
            except OSError as error:
                if not failed:
                    note(
                        f"warning: the run folder does not reach {self.url} ({error}); the run goes on, and it is tried again"
                    )
                failed = True
            if self._stop.wait(PUSH_EVERY_S):
                return

    def _state(self, name: str) -> tuple[int, int]:
        found = (self.path / name).stat()
        return found.st_mtime_ns, found.st_size

    def _made(self, name: str) -> str:
        """Where a file goes on this disk; its folder is made."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return str(file)
