"""Progress bars: what takes longer than a few seconds says how much is done, in a unit, and how long the rest takes."""

from collections.abc import Iterable
from typing import Any

from accelerate.utils import tqdm

SHOWN_AFTER = 5  # seconds; what is done by then leaves no line


def shown(steps: Iterable | None = None, *, name: str, unit: str, total: int | None = None, **more: Any) -> tqdm:
    """A bar over `steps`, or to be moved by `update`, in the main process alone; `more` are arguments of tqdm."""
    return tqdm(steps, desc=name, unit=unit, total=total, leave=False, delay=SHOWN_AFTER, mininterval=0.5, **more)
