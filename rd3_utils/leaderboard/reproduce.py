"""The commands that make the Runs of a row again."""

import json
from dataclasses import replace

from rd3_utils import command_lines
from rd3_utils.leaderboard.entries import Entry
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import protocol as protocols
from rd3_utils.publishing import terminal
from rd3_utils.synthesis.settings import METHODS
from rd3_utils.verification import vetting


def reproduce(entry: Entry) -> list[str]:
    """Command lines that make the Runs of an entry again, and the images where a method of this project made them."""
    group, first, bench = entry.group, entry.runs[0], vetting.bench_of(entry.group.benchmark)
    source, own_data = first.images.origin, first.test.commit is None and bench.data.on_hub
    options = TrainOptions(
        benchmark=bench.name,
        protocol=group.protocol if group.protocol in protocols.names() else f"{group.protocol}.toml",
        distilled=(replace(source, revision=first.images.commit) if source.repo else source).text,
        set=tuple(f"{key}={json.dumps(value)}" for key, value in sorted(first.protocol.overrides.items())),
        data_dir="DIR" if own_data else None,
    )
    lines = terminal.commands(list(entry.runs), options, bench)
    if entry.about and entry.about.method in METHODS and not source.repo:
        given = {"benchmark": bench.name, "ipc": entry.about.ipc, "out": source.text, "data_dir": options.data_dir}
        words = [word for name, value in given.items() for word in command_lines.option(name, value)]
        lines.insert(0, command_lines.module(["synthesize", entry.about.method, *words]))
    return lines
