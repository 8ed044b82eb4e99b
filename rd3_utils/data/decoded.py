"""Large image sets, decoded once: pixels in a file that is mapped into memory, found again by the content of the images.

The name of an entry is a SHA-256 over every encoded image, label, class name and the resize rule, so a changed file is
another entry and a moved one is the same. It lies under the Hub's cache folder (HF_HOME) and may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from huggingface_hub import constants

from rd3_utils import files, hub, units
from rd3_utils.data import stamps
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError

DECODED = Path(constants.HF_HOME) / "rd3" / "decoded"
PIXELS, INDEX = "pixels.u8", "index.json"


def key(table: Table, picked: np.ndarray) -> tuple[str, bool]:
    """(hex SHA-256 over all that decides the decoded set of rows `picked` of a Table, what `Table.chunks` says)."""
    digests = np.zeros((len(picked), 32), np.uint8)

    def digest(places: np.ndarray, cells: Sequence) -> None:
        for place, cell in zip(places, cells):
            digests[place] = np.frombuffer(hashlib.sha256(table.content(cell, picked[place])).digest(), np.uint8)

    decided = table.chunks(picked, digest, "looking at")
    sha = hashlib.sha256(json.dumps(table.rule, sort_keys=True).encode())
    sha.update(table.labels[picked].astype("<i8").data)
    sha.update(digests.data)
    return sha.hexdigest(), decided


def cache_entry(table: Table, picked: np.ndarray, fingerprint: Callable[[torch.Tensor], str]) -> tuple[torch.Tensor, str]:
    """(uint8 [n, 3, S, S] mapped from disk, its fingerprint) of rows `picked` of a Table, decoded if it is not there yet.

    `fingerprint(images)` computes the fingerprint, once per machine: it is believed while the file has the size, times and
    inode that it had. One process decodes, others on this machine wait for it.
    """
    shape = (len(picked), 3, table.size, table.size)
    state = table.state(picked)
    folder = DECODED / stamps.once(state and b"decoded" + state, lambda: key(table, picked))[:32]
    digest = kept_entry(folder, shape)
    try:
        if digest is None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stamps.locked(FileLock(folder / ".lock")) if os.access(folder, os.W_OK) else contextlib.nullcontext()
            with lock:
                digest = kept_entry(folder, shape) or checked_entry(folder, shape, fingerprint)
                digest = digest or write_decoded(table, picked, fingerprint, folder, shape)
    except OSError as error:
        raise UserError(
            f"{table.name}: {len(picked)} decoded images cannot be kept in {DECODED} ({hub.one_line(error)}); "
            "set HF_HOME to a folder that can be written."
        ) from error
    return mapped(folder / PIXELS, shape), digest


def stated_entry(folder: Path, shape: tuple[int, ...]) -> dict:
    """The index of a whole entry, {} where there is none; of the fingerprint only that it is one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads((folder / INDEX).read_text())
        if (folder / PIXELS).stat().st_size == np.prod(shape) and re.fullmatch("[0-9a-f]{64}", about["fingerprint"]):
            return about
    return {}


def kept_entry(folder: Path, shape: tuple[int, ...]) -> str | None:
    """The fingerprint of a whole entry whose pixels were not touched since it was computed, or None."""
    about = stated_entry(folder, shape)
    seal = about.pop("seal", None)
    with contextlib.suppress(OSError):
        if seal == sealed(about)["seal"] and about["pixels"] == stamps.stat_of(folder / PIXELS):
            return about["fingerprint"]
    return None


def checked_entry(folder: Path, shape: tuple[int, ...], fingerprint: Callable[[torch.Tensor], str]) -> str | None:
    """The fingerprint of an entry whose pixels have it, which is stamped for the next time; None where they have not."""
    about = stated_entry(folder, shape)
    if not about or fingerprint(mapped(folder / PIXELS, shape)) != about["fingerprint"]:
        return None
    with contextlib.suppress(UserError):  # a cache that may only be read
        write_index(folder, about)
    return about["fingerprint"]


def sealed(about: dict) -> dict:
    """What an index says, with a checksum of it."""
    about = {key: value for key, value in about.items() if key != "seal"}
    return {**about, "seal": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def write_index(folder: Path, about: dict) -> None:
    """Write the index of an entry, bound to its pixels as they lie there now."""
    about = sealed({**about, "pixels": stamps.stat_of(folder / PIXELS)})
    files.write_whole(folder / INDEX, json.dumps(about, indent=1) + "\n", files.SET_HOME)


def write_decoded(
    table: Table, picked: np.ndarray, fingerprint: Callable[[torch.Tensor], str], folder: Path, shape: tuple[int, ...]
) -> str:
    """Decode into `folder`: pixels under a temporary name, renamed when whole; then the index. The fingerprint."""
    size = int(np.prod(shape))
    room = shutil.disk_usage(folder).free
    if room < size:
        raise UserError(
            f"{table.name}: {len(picked)} decoded images take {units.size(size)}, {units.size(room)} are "
            "free where HF_HOME lies; free some, or set HF_HOME to another disk."
        )
    files.remove_abandoned(folder, after=0)  # whoever holds the lock is the only writer
    with files.whole_file(folder / PIXELS, files.SET_HOME) as partial:
        with open(partial, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up is an error here, not a crash later
        pixels = np.memmap(partial, np.uint8, "r+", shape=shape)
        table.decode(picked, pixels)
        pixels.flush()
        digest = fingerprint(mapped(partial, shape))
    write_index(folder, {"images": len(picked), "size": table.size, "of": table.name, "fingerprint": digest})
    return digest


def mapped(file: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The file as a tensor of `shape` whose pages are read when they are needed. It must not be written to."""
    pixels = np.memmap(file, np.uint8, "r", shape=shape)  # torch.from_file would reserve the memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)
