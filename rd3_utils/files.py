"""Files and folders that are whole or absent: written under a name of their own beside the target, then renamed.

The name is hidden and says who writes: .NAME.PROCESS-RANDOM.partial. So several commands, processes or machines may write
one target, and whoever renames last wins. What a killed command left is removed by whoever writes the same target later.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rd3_utils.errors import UserError

PARTIAL = re.compile(r"\.(?P<name>.+)\.\d+(-[0-9a-f]{8})?\.partial", re.DOTALL)
ABANDONED = 3600  # seconds without a change after which nobody writes to a partial file any more
LONGEST_NAME = 200  # bytes of the target's name in a partial one: file systems allow 255 in all
ELSEWHERE = "choose another folder"
SET_HOME = "set HF_HOME to a folder that can be written"  # for what is kept under the cache folder of the Hub's clients
REASONS = {  # errno: what was found, and what to do where that is not just `instead`
    errno.ENOSPC: "the disk is full: free some space, or {instead}",
    errno.EDQUOT: "the quota is used up: free some space, or {instead}",
    errno.EFBIG: "it would be larger than files may be here: raise that limit (ulimit -f), or {instead}",
    errno.EROFS: "the disk is read-only: {instead}",
    errno.EACCES: "this user may not write there: {instead}",
    errno.EPERM: "this user may not write there: {instead}",
    errno.ENAMETOOLONG: "the name is too long: use a shorter one",
    errno.ENOTDIR: "'{there}' is no folder: remove it, or {instead}",
    errno.EEXIST: "'{there}' is no folder: remove it, or {instead}",
    errno.EISDIR: "a folder lies where a file is wanted: remove it, or {instead}",
}


def write_whole(path: Path | str, data: bytes | str, instead: str = ELSEWHERE) -> None:
    """Write `data` (text as UTF-8) to `path` as `whole_file` does."""
    with whole_file(path, instead) as partial:
        partial.write_bytes(data if isinstance(data, bytes) else data.encode())


@contextlib.contextmanager
def whole_file(path: Path | str, instead: str = ELSEWHERE, failures: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """The path of an empty file to be written; it is at `path` when the block ends, on the disk and not only in memory.

    A block that raises leaves what was at `path`, and nothing else. A link at `path` is replaced, not followed. UserError
    where the disk does not take it, which says to do `instead`; `failures` are what a library raises in place of OSError.
    """
    path = Path(path)
    with as_one_line(path, instead, failures):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        partial = reserved(path, new_file)
        try:
            yield partial
            sync_file(partial)
            os.replace(partial, path)
        except BaseException:
            remove(partial)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(
    folder: Path | str,
    last: str = "",
    replaces: bool = False,
    instead: str = ELSEWHERE,
    failures: tuple[type[Exception], ...] = (),
) -> Iterator[Path]:
    """The path of an empty folder to be filled; when the block ends, it is `folder`.

    Where `folder` is there, its files are replaced one by one, `last` at the end: it tells that all the others are there. With
    `replaces`, everything in it goes. A block that raises leaves what was there, and nothing else. UserError as `whole_file`.
    """
    folder = Path(os.path.realpath(folder))  # of a link, what it leads to
    with as_one_line(folder, instead, failures):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, folder.name)
        partial = reserved(folder, Path.mkdir)
        try:
            yield partial
            for parent, _, names in os.walk(partial):
                for name in names:
                    sync_file(Path(parent, name))
                sync_folder(Path(parent))
            move_in(partial, folder, last, replaces)
        finally:
            remove(partial)
        sync_folder(folder.parent)


def move_in(partial: Path, folder: Path, last: str, replaces: bool) -> None:
    """Make the whole folder `partial` be `folder`, as `whole_folder` says."""
    while replaces or not folder.exists():
        former = reserved(folder, Path.mkdir)
        try:
            if replaces:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(folder, former)
            os.replace(partial, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # of another command, which was faster
                if any(former.iterdir()):
                    os.replace(former, folder)
                raise
        finally:
            remove(former)
    for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
        os.replace(file, folder / file.name)
    sync_folder(folder)


def walked(folder: Path | str, most: int, instead: str) -> Iterator[Path]:
    """The files below `folder`, folder by folder, each sorted; links to folders are not followed.

    UserError, which ends with the advice `instead`, where there are more than `most` files and folders.
    """
    count = 0
    for top, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        count += len(folders) + len(names)
        if count > most:
            raise UserError(f"{folder} holds more than {most} files and folders; {instead}.")
        yield from (Path(top) / name for name in sorted(names))


def check_new(folder: Path | str) -> None:
    """UserError unless `folder` is missing or empty, and can be made or written into (see `try_folder`)."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and is not an empty folder; give another one, nothing is overwritten.")
    try_whole(folder)


def try_whole(folder: Path | str) -> None:
    """`try_folder` for a `folder` that comes to be whole, and so needs room beside it."""
    folder = Path(folder)
    real = Path(os.path.realpath(folder))  # "." and a link have no name to move to
    if os.path.ismount(real):
        raise UserError(f"'{folder}' is a disk of its own, onto which no folder can be moved; give a folder in it.")
    for tried in (folder, real.parent):
        try_folder(tried)


def try_folder(folder: Path | str, instead: str = ELSEWHERE) -> None:
    """UserError unless files can be written into `folder`; hours of work are better told now than at their end.

    Where it is missing, the nearest folder above it is tried. Makes no folder, and removes the file that it makes.
    """
    folder = Path(folder)
    with as_one_line(folder, instead):
        there = nearest_folder(folder)
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        partial = reserved(there / "rd3", new_file)
        try:
            partial.write_bytes(bytes(4096))
            sync_file(partial)  # only then does a full disk say so
        finally:
            remove(partial)


def try_files(paths: Iterable[Path]) -> None:
    """`try_folder` for those of the files `paths` that are still to be made."""
    for folder in sorted({path.parent for path in paths if not os.path.exists(path)}):
        try_folder(folder)


def nearest_folder(folder: Path) -> Path:
    """`folder`, or of the folders above it the first that is there, be it a file or a link that leads nowhere."""
    for path in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
            return path
    return Path()


def remove_abandoned(folder: Path, name: str = "", after: float = ABANDONED) -> None:
    """Remove partial files and folders in `folder`, of the target `name` or of all, that nobody changed for `after` seconds.

    `after` is 0 where the caller holds a lock: then nobody else writes here. What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            match = PARTIAL.fullmatch(path.name)
            if match and (not name or match["name"] == short_name(name)):
                with contextlib.suppress(OSError):  # another command removed it
                    if time.time() - path.lstat().st_mtime >= after:
                        remove(path)


# --- steps


@contextlib.contextmanager
def as_one_line(path: Path, instead: str, failures: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """An OSError while `path` is written, or one of `failures`, as a UserError that says what to do."""
    caught: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        yield
    except caught as error:
        number = error.errno if isinstance(error, OSError) else stated_errno(error)
        reason = REASONS.get(number or 0, "{error}: {instead}")
        there = nearest_folder(path) if "{there}" in reason else ""
        text = reason.format(instead=instead, there=there, error=" ".join(str(error).split())[:200])
        raise UserError(f"{path} cannot be written, {text}.") from error


def stated_errno(error: Exception) -> int | None:
    """The errno that a library written in Rust names in its text."""
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def reserved(path: Path, make: Callable[[Path], object]) -> Path:
    """A partial name for `path` at which `make`, which refuses what is there, links too, has just made something."""
    while True:
        partial = path.with_name(f".{short_name(path.name)}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        with contextlib.suppress(FileExistsError):
            make(partial)
            return partial


def new_file(path: Path) -> None:
    """Make an empty file; FileExistsError where there is anything, a link included."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))


def short_name(name: str) -> str:
    """As much of a name as fits into a partial one."""
    return os.fsencode(name)[:LONGEST_NAME].decode(errors="ignore")


def sync_file(path: Path) -> None:
    """Return when a file is on the disk."""
    number = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk, where the system can tell."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
                raise
        finally:
            os.close(number)


def remove(path: Path) -> None:
    """Remove a partial file, folder or link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
