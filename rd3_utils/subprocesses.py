"""Processes that are started here and end here: interrupted in one way, ended as groups, and what their logs say.

Of the standard library alone: what trains, studies and verifies starts them.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

GRACE = 10  # seconds that a command has to end when it is asked to


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def interruptible(*more: int) -> Iterator[None]:
    """SIGTERM, and `more` signals that are not ignored, become KeyboardInterrupt, so that all end the same way."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled([signal.SIGTERM, *more], interrupt):
        yield


@contextlib.contextmanager
def deferred(*more: int) -> Iterator[None]:
    """Ctrl-C, SIGTERM and `more` signals that are not ignored wait until this is over: no process that starts here is lost."""
    caught: list[int] = []
    with handled([signal.SIGINT, signal.SIGTERM, *more], lambda number, frame: caught.append(number)):
        yield
    if caught:
        raise KeyboardInterrupt


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """`handler` for those of these signals that are not ignored."""
    before = {number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def stop_processes(processes: list[subprocess.Popen]) -> None:
    """End the groups of `processes`: asked first, killed after GRACE seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.time() + GRACE
        while time.time() < deadline and any(process.poll() is None or members(process.pid) for process in processes):
            time.sleep(0.05)


def members(group: int) -> bool:
    """Whether a process of process group `group` still runs."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
            return True
        except OSError:
            return False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[2]) == group:
                return True
    return False


def last_line(log: Path) -> str:
    """The line of a log that says what went wrong: the last of ours, else the last one."""
    text = log.read_text(errors="replace").rpartition("\n$ ")[2].replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    return (ours or lines or [""])[-1]
