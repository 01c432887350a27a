"""Who writes in a run folder, or in a place of checkpoints: one run at a time, on a disk and at a URL.

A run leaves a small file there and counts up in it every BEAT_S; whoever comes later sees whether the count moves. No clock of
another machine is trusted, and a run that was killed is noticed: on the same machine at once, from elsewhere after STALE_S.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from cluster.storage import files
from cluster.storage.conditional import remove_file, write_if
from pipelines.recipe.errors import Failed, UserError

FILE_NAME = ".lease.json"
BEAT_S = 5.0
STALE_S = 30.0  # without a beat: its run is gone
LOOK_S = 0.5


class PlaceTaken(Failed):
    """Another run has taken the place over. Nothing more may be written there; the text says who has it."""


@dataclass(frozen=True)
class Holder:
    """A run that holds a place. owner: drawn at its start; machine: what a process id means something on; began: of the process."""

    owner: str
    host: str
    machine: str
    pid: int
    began: str
    since: float  # Unix time, by its own clock
    beat: int = 0

    @property
    def words(self) -> str:
        """Who it is, for people."""
        return f"a run on {self.host} (process {self.pid}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))})"

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.machine == machine()

    @property
    def alive(self) -> bool:
        """Whether its process lives. Only for one that is `here`."""
        return process_began(self.pid) == self.began


class Lease:
    """A context manager: within it this process alone writes in the place `at`, which is `shown` to people.

    On entry it raises UserError, soon, if a run that lives holds the place; with `take_over` that run is asked to end, and waited for.
    `say` gets a line on what is waited for. `check` raises PlaceTaken once another run has taken the place over.
    """

    def __init__(self, at: str, shown: str, take_over: bool, say: Callable[[str], None]) -> None:
        self.file, self.shown, self.take_over, self.say = f"{at}/{FILE_NAME}", shown, take_over, say
        self._me = Holder(
            uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), process_began(os.getpid()), time.time()
        )
        self._taken_by = ""  # who has taken the place over, in words
        self._seen_at = time.monotonic()  # when the place was seen to be this run's
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Raises PlaceTaken if the place is no longer this run's. After a long sleep of this process it looks before it answers."""
        if not self._taken_by and time.monotonic() > self._seen_at + STALE_S / 2:
            with suppress(OSError):
                self._look()
        if self._taken_by:
            raise PlaceTaken(
                f"{self.shown} was taken over by {self._taken_by}: this run ends, and writes nothing more there"
            )

    def __enter__(self) -> Lease:
        while not create(self.file, self._me):
            found = read(self.file)
            if found is None or not self._lives(found):
                if replaced(self.file, found, self._me):
                    break
            elif not self.take_over:
                self._refuse(found)
            elif replaced(self.file, read(self.file), self._me):
                self._wait_for_its_end(found)
                break
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self._taken_by:
            with suppress(OSError):
                remove(self.file, self._me)

    def _lives(self, found: Holder) -> bool:
        if found.here:
            return found.alive
        self.say(f"{self.shown} is held by {found.words}: looking for {STALE_S:.0f} s whether it lives")
        return changes(self.file, found, STALE_S)

    def _refuse(self, found: Holder) -> NoReturn:
        raise UserError(
            f"{self.shown} is in use by {found.words}, which lives. Wait for its end, or stop it (python -m cluster stop), or "
            "take the place over with --take-over: that run then ends itself"
        )

    def _wait_for_its_end(self, found: Holder) -> None:
        """One elsewhere is given the time in which it must have noticed."""
        self.say(f"{self.shown} is taken over from {found.words}: waiting for its end")
        give_up = time.monotonic() + STALE_S
        while time.monotonic() < give_up and not (found.here and not found.alive):
            time.sleep(LOOK_S)

    def _beat(self) -> None:
        """Counts up, and notices who has taken the place over. A place that does not answer is asked again."""
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):
                found = self._look()
                if self._taken_by:
                    return
                after = replace(self._me, beat=self._me.beat + 1)
                if replaced(self.file, found, after):
                    self._me = after

    def _look(self) -> Holder | None:
        now, found = time.monotonic(), read(self.file)
        if found is None:
            self._taken_by = "a run that has ended since, or its lease was removed by hand"
        elif found.owner != self._me.owner:
            self._taken_by = found.words
        self._seen_at = now
        return found


def read(file: str) -> Holder | None:
    """Who holds a place; None for nobody, and for a file that is none of ours or was cut. Raises OSError, such as StorageError."""
    try:
        return Holder(**json.loads(raw(file) or b""))
    except (ValueError, TypeError):
        return None


def raw(file: str) -> bytes | None:
    """The content as it is; None if there is no file. Raises OSError."""
    try:
        return files.read(file)
    except FileNotFoundError:
        return None


def create(file: str, holder: Holder) -> bool:
    """Writes the file if there is none. Raises OSError."""
    content = content_of(holder)
    if "://" in file:
        return write_if(file, content, None)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{file}.{holder.owner}.tmp"
    Path(temporary).write_bytes(content)
    try:
        os.link(temporary, file)  # with its content, or not at all
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def replaced(file: str, found: Holder | None, holder: Holder) -> bool:
    """Writes the file in place of what was found in it, unless that has changed meanwhile. Raises OSError."""
    if "://" in file:
        return write_if(file, content_of(holder), content_of(found) if found else raw(file))
    with locked(file):
        if read(file) != found:
            return False
        files.write(file, memoryview(content_of(holder)))
    return True


def remove(file: str, holder: Holder) -> None:
    """Removes the file if it is still this holder's, and its folder if that is empty then. Raises OSError."""
    if "://" in file:
        _remove_own(file, holder)
        return
    with locked(file):
        if _remove_own(file, holder):
            lock_of(file).unlink()
    with suppress(OSError):  # it holds something else
        Path(file).parent.rmdir()


def _remove_own(file: str, holder: Holder) -> bool:
    found = read(file)
    ours = found is not None and found.owner == holder.owner
    if ours:
        remove_file(file)
    return ours


def changes(file: str, found: Holder, within_s: float) -> bool:
    """Whether the count of a holder moves within that time, or another holds the place by then. Raises OSError."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        time.sleep(LOOK_S)
        if read(file) != found:
            return True
    return False


def content_of(holder: Holder) -> bytes:
    """The file's content."""
    return json.dumps(asdict(holder)).encode()


def lock_of(file: str) -> Path:
    """A file beside it, for `locked`."""
    return Path(f"{file}.lock")


@contextmanager
def locked(file: str) -> Iterator[None]:
    """Within it no other process of this machine is. Its lock may be removed within it: who waits for that one takes a new one."""
    path = lock_of(file)
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                yield
                return


def machine() -> str:
    """Where a process id means something: this boot of this kernel, and this process's view of its processes."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def process_began(pid: int) -> str:
    """When a process began, in ticks of the kernel's clock; empty if there is none. A process id is given again, this pair never."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
