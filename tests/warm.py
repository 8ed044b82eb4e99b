"""A Python that starts in a second: real processes, forked from one that has imported torch and what else takes seconds.

`python()` is the path of a program that takes the words of Python's own command line (a script, -m module, -c code), and
each call is a process of its own with its own environment, folder, output and signals. Whatever reads the environment when
it is imported is imported by it, not before: huggingface_hub, datasets, accelerate, timm and the project itself. Started as

    warm.py SOCKET          the process that imports and forks, until its standard input closes
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

HEAVY = (
    "torch", "torch._dynamo", "torch.distributed.run", "torch.distributed.fsdp", "torchvision.models", "torch.utils.data",
    "numpy", "pandas", "pyarrow.parquet", "pyarrow.dataset", "scipy.stats", "sympy", "PIL.Image", "matplotlib.figure",
)  # fmt: skip
FRESH = {"huggingface_hub", "datasets", "accelerate", "timm", "evaluate", "rd3_utils", "train_student"}
STARTED: list[subprocess.Popen] = []
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [b"%16d" % len(said)], [0, 1, 2])
server.sendall(said)
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline() or -9)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> str:
    """The path of the program; the process behind it starts with the first call and ends with end(), or with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    path, program = str(folder / "socket"), folder / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    STARTED.append(server)
    assert server.stdout and server.stdin and server.stdout.readline() == "ready\n"
    program.write_text(PROGRAM.format(python=sys.executable, path=path))
    program.chmod(0o755)
    os.environ["WARM_PYTHON_PID"] = str(server.pid)  # whoever measures what tests cost finds it there
    return str(program)


def end() -> None:
    """End what `python()` started."""
    while STARTED:
        server = STARTED.pop()
        server.communicate()


def serve(path: str) -> tuple[list[str], str, dict[str, str]]:
    """Fork a process for every call; returns only in such a process, with what it is to do."""
    listener, doors = socket.socket(socket.AF_UNIX), selectors.DefaultSelector()
    listener.bind(path)
    listener.listen(64)
    children: dict[int, tuple[socket.socket, int]] = {}  # process id: who asked, and the file descriptor of the process
    doors.register(listener, selectors.EVENT_READ, None)
    doors.register(sys.stdin, selectors.EVENT_READ, None)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    while True:
        for key, _ in doors.select():
            if key.fileobj is listener:
                asked, _ = listener.accept()
                head, files, *_ = socket.recv_fds(asked, 16, 3)
                said = b""
                while len(said) < int(head):
                    said += asked.recv(int(head) - len(said))
                if (pid := os.fork()) == 0:
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                    for file in (*files, asked.fileno(), listener.fileno(), *(file for _, file in children.values())):
                        os.close(file)
                    for other, _ in children.values():
                        other.detach()
                    asked.detach(), listener.detach()
                    return tuple(json.loads(said))
                for file in files:
                    os.close(file)
                asked.sendall(b"%d\n" % pid)
                children[pid] = asked, os.pidfd_open(pid)
                doors.register(children[pid][1], selectors.EVENT_READ, pid)
                doors.register(asked, selectors.EVENT_READ, pid)
            elif key.data is None:  # standard input: whoever started this has ended
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.data in children:
                asked, file = children[key.data]
                if key.fileobj is asked:  # it says nothing more, so it was killed: so is its process
                    os.kill(key.data, signal.SIGKILL)
                    doors.unregister(asked)
                    continue
                del children[key.data]
                code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                doors.unregister(file)
                if asked in [one.fileobj for one in doors.get_map().values()]:
                    doors.unregister(asked)
                    asked.sendall(b"%d\n" % code)
                os.close(file)
                asked.close()


def work(words: list[str], folder: str, environment: dict[str, str], program: str) -> None:
    """What Python does with `words`, in this process."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.executable = program
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    if environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.path[0:1] = filter(None, environment.get("PYTHONPATH", "").split(":"))  # before them stood this folder
    while words[0] == "-u":
        words = words[1:]
    option, *rest = words
    if option == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif option == "-m":
        sys.argv = rest
        sys.path.insert(0, folder)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(option).resolve().parent))
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in HEAVY:
        __import__(name)
    assert not FRESH & sys.modules.keys(), FRESH & sys.modules.keys()
    code: object = 0
    try:
        work(*serve(sys.argv[1]), str(Path(sys.argv[1]).with_name("python")))
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # as Python ends, but for freeing all memory piece by piece
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):
            stream.flush()
    os._exit(code or 0)
