"""A cell of a table becomes pixels: bytes or a path, checked, decoded, resized and cropped."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from rd3_utils import hub
from rd3_utils.errors import UserError

MODES = ("1", "L", "P", "RGB", "LA", "RGBA", "PA")  # what becomes RGB without losing anything, if opaque


def content(cell: Any, where: str, roots: Iterable[Path]) -> bytes:
    """The bytes of one image file; one that a cell names instead of holding is read only if it lies under `roots`."""
    if not isinstance(cell, dict) or (cell.get("bytes") is None and cell.get("path") is None):
        raise UserError(f"{where} is {str(cell)[:40]}, wanted an image.")
    if cell["bytes"] is not None:
        return cell["bytes"]
    if not any(Path(cell["path"]).resolve().is_relative_to(root) for root in roots):
        raise UserError(f"{where} is a path outside its folder ('{cell['path']}'), wanted the image itself.")
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read: {hub.one_line(error)}") from error


def picture(data: bytes, where: str, photographs: bool = False) -> Image.Image:
    """One image file's bytes as an RGB PIL image; grey becomes three equal channels, exactly."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise UserError(f"{where} cannot be decoded (no image format is like it); replace the file.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} cannot be decoded ({hub.one_line(error)}); replace the file.") from error
    if image.mode not in MODES and not (photographs and image.mode == "CMYK"):  # ImageNet has a few
        raise UserError(f"{where} has mode {image.mode}; wanted 8-bit RGB or grey, convert it first.")
    if image.has_transparency_data and cast(tuple, image.convert("RGBA").getchannel("A").getextrema())[0] < 255:
        raise UserError(f"{where} is transparent (mode {image.mode}); wanted RGB or grey, flatten it first.")
    return image.convert("RGB")


def pixels(image: Image.Image, size: int, shorter_side: int, where: str) -> np.ndarray:
    """uint8 [3, size, size] of a PIL image: torchvision's Resize(shorter_side) and CenterCrop(size), to the bit."""
    if shorter_side:
        width, height = image.size
        short = min(width, height)
        image = image.resize((width * shorter_side // short, height * shorter_side // short), Image.Resampling.BILINEAR)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    if image.size != (size, size):
        raise UserError(f"{where} is {image.width}x{image.height}, wanted {size}x{size}; resize the set first.")
    return np.asarray(image).transpose(2, 0, 1)
