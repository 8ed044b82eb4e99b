"""A leaderboard as a static site: one page per benchmark, protocols and provenance one click away, nothing from elsewhere.

    index.html, BENCHMARK.html   tables per IPC, protocol, student, labels and precision; sorted and filtered in the browser
    tables/TABLE.html            every row of a table in full: Runs, images, labels, teachers, environment, commands
    protocols/NAME-DIGEST.html   every knob with its source
    not-ranked.html              what failed a check, and why
    data/entries-000.json        all entries, as data

Files open from a disk as from a server. Names are hostile until proven otherwise: every text goes through Jinja's
autoescape, scripts and styles run by their hash alone, and no name is used as a path. The same Runs give the same bytes.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rd3_utils import pushing
from rd3_utils.errors import UserError
from rd3_utils.files import try_whole, whole_folder
from rd3_utils.leaderboard.entries import Found, Origin, without
from rd3_utils.leaderboard.pages import Board
from rd3_utils.leaderboard.rendering import TEMPLATES
from rd3_utils.leaderboard.rows import slug
from rd3_utils.leaderboard.tolerance import tolerant

JSON_ENTRIES = 1000  # in one file of data/
MARK = "rd3-leaderboard"  # tag of a Space that is ours to replace


def build_site(gathered: Found, out: Path | str) -> tuple[dict[str, bytes], Found]:
    """Write the site of `gathered` into the folder `out`, made or, where it holds a site, replaced.

    ({path: bytes} of it, what it shows: `gathered` without origins that cannot be shown). UserError where `out` holds something
    else.
    """
    check_site_folder(out)
    pages, gathered = shown_site(gathered)
    with whole_folder(out, replaces=True) as partial:
        for path, data in pages.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(data)
    return pages, gathered


def shown_site(gathered: Found) -> tuple[dict[str, bytes], Found]:
    """(`site_files`, what they show: `gathered` without origins whose entries make a page fail)."""

    def of(some: Collection[Origin]) -> tuple[dict[str, bytes], Found]:
        failing = {origin: "its Runs pass each check and cannot be shown" for origin in origins if origin not in some}
        left = without(gathered, failing)
        return site_files(left), left

    origins = sorted({entry.origin for entry in gathered.entries})  # folders first
    return tolerant(origins, of)[0]


def check_site_folder(out: Path | str) -> None:
    """UserError where `out` is neither missing, nor empty, nor a site of ours, all of whose files may be replaced."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "data" / "site.json").is_file())):
        raise UserError(f"--out {out} exists and is no leaderboard of ours; give a new folder, nothing is overwritten.")
    if os.path.realpath(out) == os.getcwd():
        raise UserError(f"--out {out} is the folder that this command runs in, and all of it is replaced; give a folder in it.")
    try_whole(out)


def site_files(gathered: Found) -> dict[str, bytes]:
    """{path: bytes} of the site."""
    board = Board(gathered)
    files: dict[str, bytes] = {}
    for i, name in enumerate(board.benchmarks or [None]):
        page = board.benchmark_page(name)
        files["index.html" if i == 0 else f"{name}.html"] = page
    for group in board.paged:
        mine = board.tables[group]
        files[f"tables/{slug(group)}.html"] = board.table_page(group, mine)
    for digest, protocol in board.protocols.items():
        files[f"protocols/{protocol.name}-{digest}.html"] = board.protocol_page(protocol)
    files["protocols/index.html"] = board.protocols_page()
    files["not-ranked.html"] = board.apart_page()
    rows = [board.as_data(entry) for entry in gathered.entries]
    parts = [rows[i : i + JSON_ENTRIES] for i in range(0, len(rows), JSON_ENTRIES)]
    for i, part in enumerate(parts):
        files[f"data/entries-{i:03}.json"] = encoded(part)
    about = {"schema": 1, "entries": len(rows), "files": [f"entries-{i:03}.json" for i in range(len(parts))]}
    files["data/site.json"] = encoded(about)
    files["README.md"] = (TEMPLATES / "space.md").read_bytes()
    return files


def encoded(value: Any) -> bytes:
    """JSON bytes that stay data wherever they are pasted: no <, > or & in them."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"{text}\n".encode()


def publish_site(target: pushing.Target, files: dict[str, bytes]) -> pushing.Pushed:
    """Make the static Space `target` hold `files` and nothing else, in one commit; a pushing.Pushed."""

    def build(commit: str, there: dict[str, Any]) -> dict[str, Path | bytes | None]:
        stale = {path: None for path in there if path != ".gitattributes" and path not in files}
        return {**files, **stale}

    return pushing.push(target, build, "Leaderboard")


def check_space(target: pushing.Target) -> None:
    """UserError unless this login may push to `target` and it is a Space of ours, a fresh one, or none yet."""
    about = pushing.may_push(target)
    fresh = {".gitattributes", "README.md", "index.html", "style.css"}  # what the Hub puts into a new static Space
    strange = [f.rfilename for f in about.siblings if f.rfilename not in fresh] if about else []
    if about and strange and MARK not in (about.tags or []):
        raise UserError(
            f"{target.repo} holds something else already ({strange[0]}, and no tag {MARK} on its card); give the name of a new "
            "Space."
        )
