"""How outputs write a draw of random real images, `random:ipc=K,seed=S`, and how that is read back: nothing else is one."""

import re

SELECTIONS = {  # image sets that need no file of their own
    "random": "random:ipc=K,seed=S: K real training images per class",
    "full": "the whole train split",
}
RANDOM = re.compile(r"random:ipc=([1-9][0-9]{0,17}),seed=(0|[1-9][0-9]{0,17})")


def random(ipc: int, seed: int) -> str:
    """How outputs write a draw of random real images, and nothing else."""
    return f"random:ipc={ipc},seed={seed}"


def draw_of(source: str) -> tuple[int, int] | None:
    """(IPC, seed) of a source that is written just as `random` does, else None."""
    match = RANDOM.fullmatch(source)
    return (int(match[1]), int(match[2])) if match else None
