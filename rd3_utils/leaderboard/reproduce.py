"""The commands that make the Runs of a row again."""

import json
import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from rd3_utils.leaderboard import vetting
from rd3_utils.leaderboard.entries import Entry
from rd3_utils.protocols import protocol as protocols
from rd3_utils.publishing import terminal
from rd3_utils.synthesis.settings import METHODS

DEFAULTS: dict[str, Any] = {  # of the options of train_student.py that say what is measured
    "benchmark": "digits",
    "protocol": "rd3-v1",
    "distilled": None,
    "teacher": None,
    "views_seed": 0,
    "set": [],
    "student": None,
    "arms": None,
    "seeds": "0",
    "draws": 3,
    "draw": None,
    "data_dir": None,
    "monitor_test": False,
    "runs_only": False,
}


def reproduce(entry: Entry) -> list[str]:
    """Command lines that make the Runs of an entry again, and the images where a method of this project made them."""
    group, first, bench = entry.group, entry.runs[0], vetting.bench_of(entry.group.benchmark)
    source, own_data = first.images.origin, first.test.commit is None and bench.data.on_hub
    options = SimpleNamespace(
        defaults=DEFAULTS,
        benchmark=bench.name,
        protocol=group.protocol if group.protocol in protocols.names() else f"{group.protocol}.toml",
        distilled=(replace(source, revision=first.images.commit) if source.repo else source).text,
        set=[f"{key}={json.dumps(value)}" for key, value in sorted(first.protocol.overrides.items())],
        data_dir="DIR" if own_data else None,
    )
    lines = terminal.commands(list(entry.runs), options, bench)
    if entry.about and entry.about.method in METHODS and not source.repo:
        words = [
            "python",
            "-m",
            "rd3_utils",
            "synthesize",
            entry.about.method,
            "--benchmark",
            bench.name,
            "--ipc",
            str(entry.about.ipc),
            "--out",
            source.text,
            *(["--data-dir", "DIR"] if own_data else []),
        ]
        lines.insert(0, shlex.join(words))
    return lines
