"""Progress bars: what takes longer than a few seconds says how much is done, in a unit, and how long the rest takes."""

import os
from collections.abc import Iterable
from typing import Any

from accelerate import PartialState
from accelerate.utils import tqdm

SHOWN_AFTER = 5  # seconds; what is done by then leaves no line


def shown(steps: Iterable | None = None, *, name: str, unit: str, total: int | None = None, **more: Any) -> tqdm:
    """A bar over `steps`, or to be moved by `update`, in the main process alone; `more` are arguments of tqdm."""
    more = {"leave": False, "delay": SHOWN_AFTER, "mininterval": 0.5, "disable": not is_first(), **more}
    return tqdm(steps, main_process_only=False, desc=name, unit=unit, total=total, **more)


def is_first() -> bool:
    """Whether this is the process of its machine that speaks; asks no launcher, which would settle on devices."""
    if PartialState._shared_state:
        return PartialState().local_process_index == 0
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")
