"""Files of torch.save that somebody else made: no code in them is run, and no memory is spent that they do not bring."""

import pickle
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from rd3_utils import limits, units
from rd3_utils.errors import UserError

DAMAGED = (  # what zipfile, torch and pickle raise where bits are wrong
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    OSError,
    RuntimeError,  # and NotImplementedError, RecursionError
    ValueError,
    LookupError,
    EOFError,
    MemoryError,
    OverflowError,
    TypeError,
    AttributeError,
    AssertionError,
)
FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64
WHOLE = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64


def read(path: Path) -> Any:
    """What torch.save wrote to `path`, on the CPU; one of DAMAGED where it is no such file, or one that grows when it is read.

    Its parts must be stored as they are, as torch stores them, each with its right CRC-32: torch writes those and does not look
    at them. Files of before torch 1.6 are no archives; they state sizes that nothing bounds, and are not read.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("no regular file")
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("no archive as torch.save writes it since version 1.6; load and save it again with a newer torch")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise ValueError("a compressed archive, which torch.save does not write")
            if sum(part.file_size for part in parts) > about.st_size or len({part.filename for part in parts}) < len(parts):
                raise ValueError("an archive whose parts overlap")
            pickled = sum(part.file_size for part in parts if part.filename.endswith("data.pkl"))
            if pickled > limits.MOST_PICKLE_BYTES:
                raise ValueError(f"{units.size(pickled)} of structure, wanted at most {units.size(limits.MOST_PICKLE_BYTES)}")
            if (wrong := archive.testzip()) is not None:
                raise ValueError(f"its part {wrong[:60]!r} is damaged")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_plain(tensor: torch.Tensor, name: str) -> None:
    """UserError unless a tensor is what a file of numbers holds: dense, on the CPU, each number in a place of its own."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise UserError(f"{name} holds a tensor that is sparse, quantised or without data ({kind}), wanted a dense one.")
    if tensor.dtype not in (*FLOATS, *WHOLE):
        raise UserError(f"{name} holds numbers of type {kind}, wanted float16, bfloat16, float32, float64 or whole numbers.")
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored:
        raise UserError(
            f"{name} holds a tensor {list(tensor.shape)} of {units.size(size)} in {units.size(stored)}: its numbers share "
            "places (it was expanded before it was saved); save it with .clone()."
        )
