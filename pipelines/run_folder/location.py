"""Where a run folder lies: on this disk, or at a URL such as s3://bucket/run with a mirror here that the run works on.

An object store cannot add a line to a file, and must not make the loop wait. So the run writes a folder on this disk, and a
thread keeps the URL equal to it: each file whole, the changed ones every PUSH_EVERY_S. A driver that is killed loses the
events of that time; its steps come back from the checkpoint, which is written to the URL directly.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from actors.paths import home_resolved
from cluster.joining.token import FILE_NAME as TOKEN
from cluster.storage import files
from cluster.storage.files import StorageError
from pipelines.recipe.errors import UserError
from pipelines.run_folder.lease import FILE_NAME as LEASE
from pipelines.run_folder.lease import PlaceTaken

PUSH_EVERY_S = 15.0
CHECKPOINTS = "checkpoints/"
SHARD = ".parquet"
ADAPTERS = "adapters"  # what `evaluate` draws with
LEFT_BY_A_START = {TOKEN, ADAPTERS}  # in the folder of a run that could not begin
STAYS = (".tmp", TOKEN, LEASE)  # whoever may read the URL must not be able to call this run's Ray


class RunLocation:
    """A run folder's place, from `--out` or another `key`: `path` on this disk, `url` if it lies elsewhere, `shown` to people.

    A context manager: on entry it brings what lies at the URL, on exit it takes the last changes there. Raises UserError for
    a place that cannot be written or read, and OSError if the last changes cannot be written: then the copy stays.
    """

    def __init__(self, out: str, key: str = "--out") -> None:
        self.key, self.shown = key, resolved(out, key)
        self.url = self.shown if "://" in self.shown else None
        self.name = os.path.basename(self.url or os.path.abspath(self.shown))
        if not self.name:
            raise UserError(f"{key} {out!r} is the root of the disk. Give a folder below it")
        here = os.path.dirname(os.path.abspath(self.shown))
        self.path = Path(tempfile.mkdtemp(prefix="echoray-") if self.url else here, self.name)
        self._mirror = Mirror(self.path, self.url) if self.url else None

    def check_empty(self) -> None:
        """Raises UserError where something lies that is not of a run. Names with a leading dot do not count."""
        found = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if seen := sorted(name for name in found - LEFT_BY_A_START if not name.startswith(".")):
            raise UserError(
                f"{self.key} {self.shown} holds no run to go on with, but other files ({', '.join(seen[:3])}). Give the folder of "
                "a run, or an empty or a new one to begin a run there"
            )

    @property
    def checkpoints(self) -> str:
        """Where checkpoints go unless the recipe says otherwise."""
        return f"{self.final}/{CHECKPOINTS.rstrip('/')}"

    @property
    def final(self) -> str:
        """Where the run folder lies in the end, for what is written there directly."""
        return self.url or str(self.path.absolute())

    def bring(self, folder: str) -> None:
        """Brings the files of a folder that stay at the URL unless a run goes on from them. Raises StorageError."""
        if self._mirror:
            self._mirror.bring(name for name in files.files(self._mirror.url) if name.startswith(f"{folder}/"))

    def watch(self, note: Callable[[str], None]) -> None:
        """From now on changes go to the URL; `note` is called when they cannot."""
        if self._mirror:
            self._mirror.watch(note)

    def __enter__(self) -> RunLocation:
        try:
            check_writable(self.final, self.key)
            if self._mirror:
                self._mirror.pull()
        except BaseException:
            if self._mirror:
                shutil.rmtree(self.path.parent)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._mirror:
            return
        if isinstance(error, PlaceTaken):
            self._mirror.let_go()
            return
        try:
            self._mirror.close()
        except OSError as failure:
            text = f"the last state of the run folder could not be written to {self.url} ({failure}); it is kept in {self.path}"
            if error is None:
                raise OSError(text) from failure
            error.add_note(text)
        else:
            shutil.rmtree(self.path.parent)


def resolved(place: str, key: str) -> str:
    """What is meant by a path or URL that the user gave as `key` (cluster/storage/files.py). Raises UserError for what is no place."""
    with given_by_user(place, key):
        return files.resolved(home_resolved(place))


@contextmanager
def brought(place: str, key: str, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """A run folder that is only read: itself, or a copy here of the `wanted` files at a URL, which is gone afterwards.

    Raises UserError if the path or URL that the user gave as `key` names no place, or cannot be read.
    """
    place = resolved(place, key)
    if "://" not in place:
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="echoray-") as copy:
        with given_by_user(place, key):
            for name in filter(wanted, files.files(place)):
                with suppress(FileNotFoundError):  # the run goes on, and replaced it
                    Path(copy, name).parent.mkdir(parents=True, exist_ok=True)
                    Path(copy, name).write_bytes(files.read(f"{place}/{name}"))
        yield Path(copy)


def check_writable(place: str, key: str) -> None:
    """Raises UserError, soon, if a folder or URL that the user gave as `key` cannot be written."""
    with given_by_user(place, key):
        files.check_writable(place)


@contextmanager
def given_by_user(place: str, key: str) -> Iterator[None]:
    """Raises UserError where a folder or URL that the user gave as `key` cannot be reached."""
    try:
        yield
    except UserError:
        raise
    except StorageError as error:
        raise UserError(f"{key}: {error}") from error
    except (ValueError, ImportError) as error:  # such as an unknown protocol
        raise UserError(f"{key} {place!r}: {error}. Give a path, or a URL such as s3://bucket/run") from error


class Mirror:
    """A folder on this disk and its equal at a URL."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._pushed: dict[str, tuple[int, int]] = {}  # name -> (modified at, bytes)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pull(self) -> None:
        """Brings the files that a run adds to. Raises StorageError."""
        self.path.mkdir(parents=True)
        named = files.files(self.url)
        self.bring(it for it in named if not it.startswith(CHECKPOINTS) and not it.endswith((SHARD, *STAYS)))

    def bring(self, names: Iterable[str]) -> None:
        """Brings these files. Raises StorageError."""
        for name in names:
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files.read(f"{self.url}/{name}"))
            self._pushed[name] = self._state(name)

    def watch(self, note: Callable[[str], None]) -> None:
        """Takes changes to the URL from now on, in a thread, if it does not yet."""
        if self._thread is None:
            push = self._push_again_and_again
            self._thread = threading.Thread(target=push, args=(note,), name="run folder", daemon=True)
            self._thread.start()

    def let_go(self) -> None:
        """Takes nothing more: the URL is another run's. The copy stays."""
        self._stop.set()

    def close(self) -> None:
        """Takes the last changes, if any were to be taken at all. Raises OSError."""
        if self._thread:
            self._stop.set()
            self._thread.join()
            self.push()

    def push(self) -> None:
        """Takes what has changed to the URL. Raises OSError for the first file that cannot be written; others stay to be taken."""
        for folder, _, names in os.walk(self.path):
            for file in sorted(Path(folder, name) for name in names if not name.endswith(STAYS)):
                with suppress(FileNotFoundError):  # it was there for a moment only
                    self._push_file(file.relative_to(self.path).as_posix())

    def _push_file(self, name: str) -> None:
        state = self._state(name)
        if self._pushed.get(name) != state:
            files.write(f"{self.url}/{name}", memoryview((self.path / name).read_bytes()))
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
