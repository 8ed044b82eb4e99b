"""Convert: images that a method released as a tensor become an image set, 8-bit, with the labels that were learned with them.

MTT and DATM release images_best.pt, float [N, 3, S, S] in the space their networks see (normalised, or ZCA-whitened), the
images of a class side by side, and labels_best.pt beside it: int [N] classes, or float [N, C] learned logits
(NUS-HPC-AI-Lab/DATM distill/DATM.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rd3_utils import files, hub
from rd3_utils.data import images as image_sets
from rd3_utils.data import tensor_files, whitening
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.hub import file_sha256
from rd3_utils.protocols.benchmark import Benchmark

AGREE = 0.5  # share of learned labels that must be largest for the image's own class: else the classes are in another order


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What a method did to images in [0, 1] before it learned them, and `convert` undoes: a normalisation or a whitening.

    `normalisation` (mean, std) is the benchmark's where none is given. With `zca`, the epsilon of a ZCA whitening fitted on the
    train split, as MTT's utils.py does it, that is undone instead; `train` is a function that returns the split's ImageSet.
    """

    normalisation: tuple[Sequence[float], Sequence[float]] | None = None
    zca: float = 0.0
    train: Callable[[], ImageSet] | None = None


def convert(
    source: Path | str,
    out: Path | str,
    benchmark: Benchmark,
    preprocessing: Preprocessing = Preprocessing(),
    method: str = "not stated",
    most_clipped: float = 0.05,
) -> tuple[ImageSet, dict]:
    """Make the image set in the new folder `out` from the tensor file `source`; (ImageSet, what distilled.json says).

    The `preprocessing` is undone and values are rounded to 8 bits; UserError if more than `most_clipped` of them lie outside,
    as when whitened images are taken for normalised ones.
    """
    source, out = Path(source), Path(out)
    files.check_new(out)
    tensor = read_images(source, benchmark)
    labels, soft_labels, about = read_labels(source, len(tensor), len(benchmark.classes))
    pixels, undone = undo(preprocessing, tensor, benchmark)
    clipped, furthest = clipping(pixels)
    if clipped > most_clipped:
        raise UserError(
            f"{source}: {100 * clipped:.1f} % of the values lie outside [0, 1] once {undone} is undone, by up to "
            f"{furthest:.2f}: more than the {100 * most_clipped:.1f} % that may be clipped. Are the images whitened "
            "(--zca 0.1), or normalised with other numbers (--mean, --std)? Else --most-clipped allows more."
        )
    pixels = (pixels * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    name = out.resolve().name
    images = image_sets.make(name, pixels, labels, benchmark.classes, name, soft_labels=soft_labels)
    about = {
        "method": method,
        "benchmark": benchmark.name,
        "ipc": images.ipc,
        "undone": undone,
        "clipped": round(clipped, 6),
        "furthest_outside": round(furthest, 4),
        **about,
        "source": {"repo": source.name, "commit": None, "sha256": file_sha256(source)},
        "fingerprint": images.fingerprint,
    }
    image_sets.save_new(images, out, about)
    return images, about


def read_images(source: Path, benchmark: Benchmark) -> torch.Tensor:
    """The float tensor [N, 3, S, S] in the file `source`; UserError unless it fits the benchmark."""
    tensor = read_tensor(source)
    size, classes = benchmark.image.size, len(benchmark.classes)
    if tensor.shape[1:] != (3, size, size) or not tensor.is_floating_point() or not torch.isfinite(tensor).all():
        raise UserError(f"{source} holds {tensor.dtype} {list(tensor.shape)}, wanted finite floats [N, 3, {size}, {size}].")
    if len(tensor) % classes or not len(tensor):
        raise UserError(
            f"{source} holds {len(tensor)} images, which {classes} classes of {benchmark.name} cannot share evenly."
        )
    return tensor


def undo(preprocessing: Preprocessing, tensor: torch.Tensor, benchmark: Benchmark) -> tuple[torch.Tensor, dict]:
    """(float64 [N, 3, S, S] with values in [0, 1], what was undone: plain data)."""
    if preprocessing.zca:
        assert preprocessing.train is not None
        return unwhitened(tensor.double(), preprocessing.train(), preprocessing.zca), {"zca": preprocessing.zca}
    mean, std = preprocessing.normalisation or (benchmark.image.mean, benchmark.image.std)
    pixels = tensor.double() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return pixels, {"mean": list(mean), "std": list(std)}


def read_tensor(path: Path) -> torch.Tensor:
    """The tensor in a file of torch.save, on the CPU; code in it is refused, never run."""
    try:
        tensor = tensor_files.read(path)
    except tensor_files.DAMAGED as error:
        raise UserError(f"{path} cannot be read as a tensor: {hub.one_line(error)}") from error
    if not isinstance(tensor, torch.Tensor):
        raise UserError(f"{path} holds a {type(tensor).__name__}, wanted one tensor; save the images alone with torch.save.")
    tensor_files.check_plain(tensor, str(path))
    return tensor.detach()


def read_labels(source: Path, n: int, classes: int) -> tuple[torch.Tensor, torch.Tensor | None, dict]:
    """(classes int64 [N], learned logits float32 [N, C] or None, what to record) of the file of labels beside `source`.

    It is called as `source` with "labels" for "images". Without one, and where it holds logits, classes follow the order:
    the first N / C images are of class 0, and so on.
    """
    in_order = torch.arange(classes).repeat_interleave(n // classes)
    path = source.with_name(source.name.replace("images", "labels"))
    if path == source or not path.is_file():
        return in_order, None, {"classes": "by the order of the images"}
    labels = read_tensor(path)
    if labels.shape == (n,) and not labels.is_floating_point():
        return labels.long(), None, {"classes": path.name}
    if labels.shape != (n, classes) or not labels.is_floating_point() or not torch.isfinite(labels).all():
        raise UserError(f"{path} holds {labels.dtype} {list(labels.shape)}, wanted integers [{n}] or floats [{n}, {classes}].")
    agree = float((labels.argmax(1) == in_order).double().mean())
    if agree < AGREE:
        raise UserError(
            f"{path}: in {100 * agree:.0f} % of the labels the largest number is that of the image's class by its place, "
            f"wanted {100 * AGREE:.0f} %; are the classes in another order?"
        )
    about = {"classes": "by the order of the images", "soft_labels": {"file": path.name, "sha256": file_sha256(path)}}
    return in_order, labels.float(), {**about, "soft_labels_agree": round(agree, 4)}


def unwhitened(tensor: torch.Tensor, train: ImageSet, eps: float) -> torch.Tensor:
    """float64 [N, 3, S, S]: what the ZCA whitening of images in [0, 1], fitted on the ImageSet `train`, made `tensor` of."""
    fitted = whitening.fitted(train, (0.0,) * 3, (1.0,) * 3, eps)
    return torch.linalg.solve(fitted.matrix.double(), tensor.flatten(1).T).T.add(fitted.centre.double()).view_as(tensor)


def clipping(pixels: torch.Tensor) -> tuple[float, float]:
    """(the share of values that 8 bits clip, by how much the furthest lies outside [0, 1])."""
    outside = torch.maximum(-pixels, pixels - 1)
    return float((outside > 0.5 / 255).double().mean()), max(0.0, float(outside.max()))
