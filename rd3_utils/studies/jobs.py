"""Jobs: commands that run side by side, each by one worker only, whoever else works on the same folders.

A job is claimed before it starts: a file beside its result, made with O_EXCL, that names host and process and is touched while
the job runs. A claim whose process is gone (or, on another host, that nobody touched for STALE seconds) is taken over. The
commands of a killed study go on to their end: until then their claim holds, through the process group it names.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from rd3_utils import bounded, files, subprocesses

HEARTBEAT = 15  # seconds between two touches of a claim
STALE = 300  # seconds without a touch after which a claim of another host is nobody's
POLL = 0.2  # seconds between two looks at the commands
AGAIN = 2  # seconds after which a job that another command holds is looked at again


@dataclass(eq=False)
class Job:
    """A command and how to know that its result is there; `after` are jobs that must be done first."""

    name: str
    command: list[str]
    done: Callable[[], bool]
    claim: Path
    log: Path
    after: list["Job"] = field(default_factory=list)
    state: str = "waiting"  # waiting | running | done | failed
    mine: bool = False  # whether it ran here
    seconds: float = 0.0
    error: str = ""


def run(
    jobs: list[Job],
    environments: list[dict[str, str]],
    lock: Path,
    finished: Callable[[Job], None],
    waiting: Callable[[Job], None] = lambda job: None,
) -> None:
    """Run `jobs` in order, as many at once as there are `environments` (variables of each place); all end done or failed.

    `finished(job)` is called after each; `waiting(job)` once for a job that another command holds. However this ends, no
    command of ours goes on. `lock` is a file that all who work on these folders share; it guards the taking over of claims.
    """
    running: dict[Job, tuple[subprocess.Popen, int, float, float]] = {}
    later: dict[Job, float] = {}
    free = list(range(len(environments)))
    try:
        while any(job.state in ("waiting", "running") for job in jobs):
            for job, (process, place, started, _) in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    free.append(place)
                    job.seconds, job.mine = time.time() - started, True
                    end_job(job, process.returncode, finished)
            for job in jobs:
                if job.state != "waiting" or later.get(job, 0) > time.time():
                    continue
                lost = next((before for before in job.after if before.state == "failed"), None)
                if lost is not None:
                    job.state, job.error = "failed", f"not started, as this failed: {lost.name}"
                    finished(job)
                elif all(before.state == "done" for before in job.after):
                    if job.done():
                        job.state = "done"
                        clear([job.claim], lock)
                        finished(job)
                        continue
                    if not free:
                        break
                    with subprocesses.deferred():  # or an interrupt could lose a process that was just started
                        if not take(job.claim, lock):
                            if job not in later:
                                waiting(job)
                            later[job] = time.time() + AGAIN
                        elif job.done():  # it was finished between the two looks
                            release(job.claim)
                        else:
                            place = free.pop(0)
                            running[job] = start(job, environments[place]), place, time.time(), time.time()
                            job.state = "running"
            for job, (process, place, started, touched) in running.items():
                if time.time() - touched > HEARTBEAT:
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(job.claim)
                    running[job] = process, place, started, time.time()
            time.sleep(POLL)
    finally:
        subprocesses.stop_processes([process for process, *_ in running.values()])
        for job in running:
            release(job.claim)


def start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
    """The process of `job`, leader of a group of its own, which its claim now names; what it says goes to its log."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        log.write(f"$ {' '.join(job.command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    files.write_whole(job.claim, json.dumps(holder(process.pid)))
    return process


def end_job(job: Job, code: int, finished: Callable[[Job], None]) -> None:
    """Say how `job` ended: its result counts, not the exit code alone."""
    job.state = "done" if job.done() else "failed"
    if job.state == "failed":
        job.error = subprocesses.last_line(job.log) or f"exit code {code}"
    release(job.claim)
    finished(job)


def take(claim: Path, lock: Path) -> bool:
    """Whether `claim` is ours now: it was free, or its holder is gone."""
    claim.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            file = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with open(file, "w") as opened:
                opened.write(json.dumps(holder()))
            return True
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if held(claim):
                return False
            claim.unlink(missing_ok=True)
    return False


def release(claim: Path) -> None:
    """Remove `claim` if it is ours."""
    says = read_claim(claim)
    if (says.get("pid"), says.get("host")) == (os.getpid(), socket.gethostname()):
        claim.unlink(missing_ok=True)


def clear(claims: Iterable[Path], lock: Path) -> None:
    """Remove those of `claims` that nobody holds any more."""
    for claim in claims:
        if claim.exists():
            with FileLock(lock):
                if not held(claim):
                    claim.unlink(missing_ok=True)


def holder(group: int | None = None) -> dict:
    """What a claim says: this process, and the process group of its command once that runs."""
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}
    return {**mine, "group": group, "group_born": group and born(group)}


def read_claim(claim: Path) -> dict:
    """What a claim says, or {} where there is none or it is half-written."""
    try:
        said = bounded.read_json(claim)
    except bounded.Refused:
        return {}
    return said if isinstance(said, dict) else {}


def held(claim: Path) -> bool:
    """Whether somebody still works on what `claim` stands for."""
    says = read_claim(claim)
    try:
        fresh = time.time() - claim.stat().st_mtime < STALE
    except FileNotFoundError:
        return False
    if says.get("host") != socket.gethostname():
        return fresh
    if born(says["pid"]) == says["born"]:
        return True
    group = says["group"]
    renumbered = group and born(group) not in (None, says["group_born"])
    return bool(group and not renumbered and subprocesses.members(group))


def born(pid: int) -> str | None:
    """When process `pid` started, as the kernel says it; None where none runs. Tells it from a later one of its number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)  # no /proc, as on macOS: the number alone
        return "runs"
    except OSError:
        return None
