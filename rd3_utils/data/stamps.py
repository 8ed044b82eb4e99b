"""Stamps: what was computed of files once on this machine, found again by the files' size, times and inodes.

They are small files under the Hub's cache folder (HF_HOME), each with a checksum of itself; one that is damaged, or is of
files that differ in any of CHANGES, counts as none. They may be deleted at any time.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants

from rd3_utils import files, progress
from rd3_utils.errors import UserError

STAMPS = Path(constants.HF_HOME) / "rd3" / "stamps"
CHANGES = ("size", "mtime_ns", "ctime_ns", "ino")  # of a file's stat: one of them differs where other bytes lie at its path
SETTLED = 2_000_000_000  # nanoseconds since a change after which another change has another time, on every file system


def stat_of(path: Path | str) -> list[int]:
    """CHANGES of a file or folder, of what a link leads to; OSError where there is none."""
    about = os.stat(path)
    return [getattr(about, f"st_{key}") for key in CHANGES]


def is_settled(stat: list[int], now: int) -> bool:
    """Whether a file was not changed so shortly before `now` (time_ns) that another change could leave it the same stat."""
    return max(stat[1:3]) < now - SETTLED


def files_state(paths: Iterable[Path | str]) -> bytes | None:
    """Names files with their CHANGES; None where one is missing or was changed just now."""
    now, sha = time.time_ns(), hashlib.sha256()
    for path in paths:
        try:
            stat = stat_of(path)
        except (OSError, ValueError):
            return None
        if not is_settled(stat, now):
            return None
        sha.update(f"{stat} ".encode() + os.fsencode(path) + b"\0")
    return sha.digest()


def read_sealed(path: Path) -> bytes | None:
    """What `write_sealed` wrote, or None: nothing there, or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[32:] if data[:32] == hashlib.sha256(memoryview(data)[32:]).digest() else None


def write_sealed(path: Path, data: bytes) -> None:
    """Write `data` behind its SHA-256, if the cache may be written."""
    with contextlib.suppress(UserError):
        files.write_whole(path, hashlib.sha256(data).digest() + data, files.SET_HOME)


@contextlib.contextmanager
def locked(lock: FileLock) -> Iterator[None]:
    """A block in which this process has `lock`; a bar while another has it."""
    with progress.shown(name="waiting for another process that does the same", unit="s") as bar:
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                bar.update()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Only one process of this machine is in the block for `path`; where no lock can be made, each is for itself."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(FileLock(path.with_name(f".{path.name}.lock"))))
        yield


def once(state: bytes | None, compute: Callable[[], tuple[str, bool]]) -> str:
    """The text that `compute()` gives of files in this `state`, computed once on this machine.

    It gives, too, whether the state decides the text; where it does not, and without a state, it is computed each time.
    """
    if state is None:
        return compute()[0]
    path = STAMPS / hashlib.sha256(state).hexdigest()[:32]
    if (there := read_sealed(path)) is not None:
        return there.decode()
    with one_at_a_time(path):
        if (there := read_sealed(path)) is not None:
            return there.decode()
        text, decided = compute()
        if decided:
            write_sealed(path, text.encode())
    return text
