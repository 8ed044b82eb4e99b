"""Experiment trackers: every student is a run of its own there, with its recipe as config and a step per epoch."""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rd3_utils.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKED_AS = "rd3"
PROTOCOL_KNOBS = "knobs"  # of the protocol: the recipe is what it makes of them


def arguments(log_with: str | None, folder: Path | str) -> dict[str, str]:
    """Arguments of `launch.accelerator` for an experiment tracker; UserError when its package is not installed."""
    if log_with is None:
        return {}
    if importlib.util.find_spec(log_with) is None:
        raise UserError(f"--log-with {log_with}: the package is not installed; pip install {log_with}.")
    return {"log_with": log_with, "project_dir": str(folder)}


def begin(accelerator: "Accelerator", path: Path, about: dict) -> None:
    """Start the run of a student whose Run will lie at `path` in the results; the run before ends. Nothing without a tracker.

    Steps of a run never go back, so that no tracker drops the curve of a second student. `about` is what the Run records.
    """
    end_tracking(accelerator)
    if not accelerator.log_with:
        return
    name, group = path.as_posix(), path.parent.as_posix()
    about = {**about, "protocol": {key: value for key, value in about["protocol"].items() if key != PROTOCOL_KNOBS}}
    config = json.loads(json.dumps(about))
    if str(accelerator.log_with[0]) == "tensorboard":  # a folder for each run, and no tables in tables
        accelerator.init_trackers(f"{TRACKED_AS}/{name}", flat_config(config))
    else:
        own = {"name": name, "group": group}
        accelerator.init_trackers(TRACKED_AS, config, {"wandb": own, "trackio": own})


def end_tracking(accelerator: "Accelerator") -> None:
    """End the runs that go on, if any, and nothing else: processes stay together."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []


def flat_config(table: dict, head: str = "") -> dict:
    """{"training.epochs": 300, ...} of nested tables; lists as JSON text."""
    flat: dict = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flat_config(value, f"{head}{key}.")
        else:
            flat[head + key] = json.dumps(value) if isinstance(value, list) else value
    return flat
