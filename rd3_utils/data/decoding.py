"""A cell of a table becomes pixels: bytes or a path, checked, decoded, resized and cropped."""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from rd3_utils import bounded, hub, limits, units
from rd3_utils.errors import UserError

DECODING_VERSION = 1  # of how files become pixels here
DECODER = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"  # of how they do in Pillow
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow has others that start programs, such as EPS
UNDECODABLE = (OSError, SyntaxError, ValueError, OverflowError, MemoryError, EOFError, LookupError, TypeError, struct.error,
               zlib.error, Image.DecompressionBombError)  # fmt: skip
ONE_AT_A_TIME = threading.Lock()  # of large images: memory is that of one, whatever the number of threads
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # which Pillow gives from limits.MOST_IMAGE_PIXELS on
MODES = ("1", "L", "P", "RGB", "LA", "RGBA", "PA")  # what becomes RGB without losing anything, if opaque


def content(cell: Any, where: str, roots: Iterable[Path]) -> bytes:
    """The bytes of one image file; one that a cell names instead of holding is read only if it lies under `roots`.

    A Path is a file that we listed ourselves: a link there leads where its owner wants.
    """
    if isinstance(cell, Path):
        return file_content(cell, where)
    if not isinstance(cell, dict) or (cell.get("bytes") is None and cell.get("path") is None):
        raise UserError(f"{where} is {str(cell)[:40]}, wanted an image.")
    if cell["bytes"] is not None:
        if len(cell["bytes"]) > limits.MOST_IMAGE_BYTES:
            most = units.size(limits.MOST_IMAGE_BYTES)
            raise UserError(f"{where} has {units.size(len(cell['bytes']))}, wanted at most {most}.")
        return cell["bytes"]
    if not any(Path(cell["path"]).resolve().is_relative_to(root) for root in roots):
        raise UserError(f"{where} is a path outside its folder ('{cell['path']}'), wanted the image itself.")
    return file_content(Path(cell["path"]), where)


def file_content(file: Path, where: str) -> bytes:
    """The bytes of an image that is a file of its own."""
    try:
        return bounded.contents(file, limits.MOST_IMAGE_BYTES, "an image")
    except bounded.Refused as refused:
        raise UserError(f"{where} cannot be read: {str(refused).removeprefix('cannot be read: ')}.") from refused


def picture(data: bytes, where: str, photographs: bool = False, size: int | None = None) -> Image.Image:
    """One image file's bytes as an RGB PIL image; grey becomes three equal channels, exactly.

    One that must have `size` x `size` pixels and says otherwise is not decoded. Of several frames or pages the first counts.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        large = image.width * image.height > limits.LARGE_IMAGE_PIXELS
        with ONE_AT_A_TIME if large else contextlib.nullcontext():
            return as_rgb(loaded(image, size, where), where, photographs)
    except UnidentifiedImageError as error:
        raise UserError(
            f"{where} cannot be decoded (no image format is like it, of {', '.join(FORMATS)}); replace the file."
        ) from error
    except Image.DecompressionBombWarning as error:
        raise UserError(f"{where} has more than {limits.MOST_IMAGE_PIXELS:,} pixels; make it smaller.") from error
    except UNDECODABLE as error:
        raise UserError(f"{where} cannot be decoded ({hub.one_line(error)}); replace the file.") from error


def loaded(image: Image.Image, size: int | None, where: str) -> Image.Image:
    """An opened image, decoded; UserError, from its header, where it is not `size` x `size` if given, or of too many pixels."""
    if size is not None:
        check_side(image, size, where)
    if image.width * image.height > limits.MOST_IMAGE_PIXELS:
        raise UserError(
            f"{where} is {image.width}x{image.height}, wanted at most {limits.MOST_IMAGE_PIXELS:,} pixels; make it smaller."
        )
    image.load()
    return image


def check_side(image: Image.Image, size: int, where: str) -> None:
    """UserError unless an image has `size` x `size` pixels."""
    if image.size != (size, size):
        raise UserError(f"{where} is {image.width}x{image.height}, wanted {size}x{size}; resize the set first.")


def as_rgb(image: Image.Image, where: str, photographs: bool) -> Image.Image:
    """A decoded image as RGB; UserError where that would lose something."""
    if image.mode not in MODES and not (photographs and image.mode == "CMYK"):  # ImageNet has a few
        raise UserError(f"{where} has mode {image.mode}; wanted 8-bit RGB or grey, convert it first.")
    if image.has_transparency_data and cast(tuple, image.convert("RGBA").getchannel("A").getextrema())[0] < 255:
        raise UserError(f"{where} is transparent (mode {image.mode}); wanted RGB or grey, flatten it first.")
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels(image: Image.Image, size: int, shorter_side: int, where: str) -> np.ndarray:
    """uint8 [3, size, size] of a PIL image: torchvision's Resize(shorter_side) and CenterCrop(size), to the bit."""
    if shorter_side:
        width, height = image.size
        short = min(width, height)
        image = image.resize((width * shorter_side // short, height * shorter_side // short), Image.Resampling.BILINEAR)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    check_side(image, size, where)
    return np.asarray(image).transpose(2, 0, 1)
