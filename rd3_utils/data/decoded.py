"""Large image sets, decoded once: pixels in a file that is mapped into memory, found again by the content of the images.

The name of an entry is a SHA-256 over every encoded image, label, class name and the resize rule, so a changed file is
another entry and a moved one is the same. It lies under the Hub's cache folder (HF_HOME) and may be deleted at any time.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from huggingface_hub import constants
from PIL import features

from rd3_utils import files, hub, units
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError

DECODED = Path(constants.HF_HOME) / "rd3" / "decoded"
DECODING_VERSION = 1  # of how files become pixels here
DECODER = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"  # of how they do in Pillow


def key(table: Table, picked: np.ndarray) -> str:
    """Hex SHA-256 over all that decides the decoded set of rows `picked` of a Table."""
    digests = np.zeros((len(picked), 32), np.uint8)

    def digest(start: int, cells: Iterable) -> None:
        for place, cell in enumerate(cells, start):
            digests[place] = np.frombuffer(hashlib.sha256(table.content(cell, picked[place])).digest(), np.uint8)

    table.chunks(picked, digest)
    rule = {"version": DECODING_VERSION, "decoder": DECODER, "size": table.size, "shorter_side": table.shorter_side,
            "classes": list(table.class_names)}  # fmt: skip
    sha = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    sha.update(table.labels[picked].astype("<i8").data)
    sha.update(digests.data)
    return sha.hexdigest()


def cache_entry(
    table: Table, picked: np.ndarray, fingerprint: Callable[[torch.Tensor], str]
) -> tuple[torch.Tensor, str | None]:
    """(uint8 [n, 3, S, S] mapped from disk, its fingerprint) of rows `picked` of a Table, decoded if it is not there yet.

    `fingerprint(images)` computes the fingerprint, once: of an entry that is there it is believed, as is the file if it has
    the right size. One process decodes, others on this machine wait for it.
    """
    shape = (len(picked), 3, table.size, table.size)
    folder = DECODED / key(table, picked)[:32]
    try:
        if kept_entry(folder, shape) is None:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if kept_entry(folder, shape) is None:
                    write_decoded(table, picked, fingerprint, folder, shape)
    except OSError as error:
        raise UserError(
            f"{table.name}: {len(picked)} decoded images cannot be kept in {DECODED} ({hub.one_line(error)}); "
            "set HF_HOME to a folder that can be written."
        ) from error
    return mapped(folder / "pixels.u8", shape), kept_entry(folder, shape)


def kept_entry(folder: Path, shape: tuple[int, ...]) -> str | None:
    """The fingerprint of a whole entry, or None."""
    try:
        if (folder / "pixels.u8").stat().st_size == np.prod(shape):
            return json.loads((folder / "index.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def write_decoded(
    table: Table, picked: np.ndarray, fingerprint: Callable[[torch.Tensor], str], folder: Path, shape: tuple[int, ...]
) -> None:
    """Decode into `folder`: pixels under a temporary name, renamed when whole; then the index."""
    size = int(np.prod(shape))
    room = shutil.disk_usage(folder).free
    if room < size:
        raise UserError(
            f"{table.name}: {len(picked)} decoded images take {units.size(size)}, {units.size(room)} are "
            "free where HF_HOME lies; free some, or set HF_HOME to another disk."
        )
    files.remove_abandoned(folder, after=0)  # whoever holds the lock is the only writer
    with files.whole_file(folder / "pixels.u8", files.SET_HOME) as partial:
        with open(partial, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up is an error here, not a crash later
        pixels = np.memmap(partial, np.uint8, "r+", shape=shape)
        table.decode(picked, pixels)
        pixels.flush()
        digest = fingerprint(mapped(partial, shape))
    about = {"images": len(picked), "size": table.size, "of": table.name, "fingerprint": digest}
    files.write_whole(folder / "index.json", json.dumps(about, indent=1) + "\n", files.SET_HOME)


def mapped(file: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The file as a tensor of `shape` whose pages are read when they are needed. It must not be written to."""
    pixels = np.memmap(file, np.uint8, "r", shape=shape)  # torch.from_file would reserve the memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)
