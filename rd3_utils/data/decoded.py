"""Large image sets, decoded once: pixels in a file that is mapped into memory, found again by the content of the images.

The name of an entry is a SHA-256 over every encoded image, label, class name and the resize rule, so a changed file is
another entry and a moved one is the same. It lies under the Hub's cache folder (HF_HOME) and may be deleted at any time.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from huggingface_hub import constants

from rd3_utils.errors import UserError

FOLDER = Path(constants.HF_HOME) / "rd3" / "decoded"
VERSION = 1  # of how files become pixels


def key(table, picked):
    """Hex SHA-256 over all that decides the decoded set of rows `picked` of a Table."""
    digests = np.zeros((len(picked), 32), np.uint8)

    def digest(start, cells):
        for place, cell in enumerate(cells, start):
            content = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
            digests[place] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)

    table.chunks(picked, digest)
    rule = {"version": VERSION, "size": table.size, "shorter_side": table.shorter_side, "classes": list(table.class_names)}
    sha = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    sha.update(table.labels[picked].astype("<i8").data)
    sha.update(digests.data)
    return sha.hexdigest()


def entry(table, picked, fingerprint):
    """(uint8 [n, 3, S, S] mapped from disk, its fingerprint) of rows `picked` of a Table, decoded if it is not there yet.

    `fingerprint(images)` computes the fingerprint, once. One process decodes, others on this machine wait for it.
    """
    shape = (len(picked), 3, table.size, table.size)
    folder = FOLDER / key(table, picked)[:32]
    folder.mkdir(parents=True, exist_ok=True)
    file, index = folder / "pixels.u8", folder / "index.json"
    with FileLock(folder / ".lock"):
        if not (index.is_file() and file.is_file() and file.stat().st_size == np.prod(shape)):
            index.unlink(missing_ok=True)
            room = shutil.disk_usage(folder).free
            if room < np.prod(shape):
                raise UserError(
                    f"{table.name}: {len(picked)} decoded images take {np.prod(shape) / 1e9:.1f} GB, {room / 1e9:.1f} GB are "
                    "free where HF_HOME lies; free some, or set HF_HOME to another disk."
                )
            partial = folder / "pixels.partial"
            pixels = np.memmap(partial, np.uint8, "w+", shape=shape)
            table.decode(picked, pixels)
            pixels.flush()
            about = {
                "images": len(picked),
                "size": table.size,
                "of": table.name,
                "fingerprint": fingerprint(mapped(partial, shape)),
            }
            os.replace(partial, file)
            index.with_suffix(".partial").write_text(json.dumps(about, indent=1) + "\n")
            os.replace(index.with_suffix(".partial"), index)
        about = json.loads(index.read_text())
    return mapped(file, shape), about["fingerprint"]


def mapped(file, shape):
    """The file as a tensor of `shape` whose pages are read when they are needed; writing to it changes no file."""
    return torch.from_file(str(file), shared=False, size=int(np.prod(shape)), dtype=torch.uint8).view(shape)
