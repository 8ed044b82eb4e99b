"""ImageSet: distilled, random, full and test sets alike are N images as uint8 with hard labels and class names in order.

A set is read from wherever it is published (`datasets` reads parquet, image folders and Hub repos), decoded once and
exactly, and fingerprinted. Everything that a file may get wrong is checked here, at the border.
"""

import dataclasses
import glob
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from huggingface_hub import constants
from PIL import Image, UnidentifiedImageError

from rd3_utils import hub
from rd3_utils.errors import UserError

PACKAGE = Path(__file__).parents[1]
EMBEDDED = PACKAGE / "embedded"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "class_id", "labels")
INTEGER_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MODES = ("1", "L", "P", "RGB", "LA", "RGBA", "PA")  # what becomes RGB without losing anything, if opaque
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageSet:
    """N images: `images` uint8 [N, 3, S, S], `labels` int64 [N] indices into `class_names`.

    `fingerprint` is the SHA-256 of pixels, labels and class names: two sets with the same one are the same data whatever
    file they came from. `commit` is the Hub commit, or None for local files.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    source: str
    commit: str | None
    fingerprint: str

    def __len__(self):
        return len(self.labels)

    @property
    def ipc(self):
        """Images per class, or None where classes have different numbers of images."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names))
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    @property
    def nominal_ipc(self):
        """What a protocol's rules by IPC are asked with: `ipc`, or the mean rounded down."""
        return self.ipc or len(self) // len(self.class_names)

    @property
    def identity(self):
        """NAME@FINGERPRINT8: how paths name this set."""
        return f"{self.name}@{self.fingerprint[:8]}"

    def describe(self):
        """What a Run records of the images."""
        return {
            "name": self.name,
            "source": self.source,
            "commit": self.commit,
            "fingerprint": self.fingerprint,
            "ipc": self.ipc,
            "images": len(self),
        }


def make(name, images, labels, class_names, source, commit=None):
    """An ImageSet with its fingerprint computed; `images` uint8 [N, 3, S, S], `labels` [N]."""
    images = torch.as_tensor(images).contiguous()
    labels = torch.as_tensor(labels, dtype=torch.int64)
    header = json.dumps({"shape": list(images.shape), "classes": list(class_names)}).encode()
    sha = hashlib.sha256(header)
    sha.update(images.numpy().data)
    sha.update(labels.numpy().astype("<i8").data)
    return ImageSet(name, images, labels, tuple(class_names), source, commit, sha.hexdigest())


def test_split(benchmark, data_dir=None, workers=None):
    """The whole official test split of `benchmark`; `data_dir` reads it from local files."""
    return real_split(benchmark, "test", data_dir, workers)


def train_split(benchmark, data_dir=None, workers=None):
    """The whole train split of `benchmark`: what `full` and `random` select from."""
    return real_split(benchmark, "train", data_dir, workers)


def real_split(benchmark, split, data_dir, workers):
    """One split of the benchmark's real data, its size checked against the benchmark file."""
    data, name = benchmark.data, getattr(benchmark.data, split)
    if data_dir is None and data.repo == "sklearn:digits":
        images, labels = sklearn_digits(split)
        found = make(f"{benchmark.name}-{split}", images, labels, benchmark.classes, data.repo)
    else:
        if data_dir is not None:
            source, commit = str(data_dir), None
            table = local_table(Path(data_dir), name)
        else:
            source, commit = data.repo, hub.commit(data.repo, data.revision)
            table = hub_table(data.repo, commit, data.config, name)
        # the columns as the Hub has them; local copies may call them otherwise
        columns = (
            pick((data.image_column, *IMAGE_COLUMNS), table, source),
            pick((data.label_column, *LABEL_COLUMNS), table, source),
        )
        found = decode(f"{benchmark.name}-{split}", table, columns, benchmark, source, commit, workers, real=True)
    wanted = getattr(data, f"{split}_images")
    if len(found) != wanted:
        raise UserError(
            f"{found.source}: the {split} split of {benchmark.name} has {len(found)} images, "
            f"wanted the official {wanted}; scores need the whole split."
        )
    return renamed(found, found.name, without_machine(found.source))


def without_machine(source):
    """A local source as outputs may name it: an absolute path keeps only its last part."""
    return Path(source).name if Path(source).is_absolute() else source


def read(source, benchmark, workers=None):
    """The ImageSet at `source`: an existing path, an embedded set's name, or OWNER/REPO[@REVISION][:CONFIG].

    Checked against `benchmark`: image size, class names (an other order is mapped by name), every class present, the same
    number of images in each class. UserError names what was found, what was wanted and what to do.
    """
    path = Path(source)
    embedded = EMBEDDED / source
    if path.exists():
        table, name, commit = local_table(path, "train"), path.resolve().name.split(".")[0], None
    elif "/" not in source and embedded.is_dir():
        table, name, commit = local_table(embedded, "train"), source, None
    elif source.startswith((".", "/", "~")) or "/" not in source:
        raise UserError(
            f"no folder or file '{source}', and no embedded set of that name ({', '.join(embedded_sets())}); "
            "give a path, a selection such as random:ipc=10,seed=0, or OWNER/REPO."
        )
    else:
        repo, revision, config = hub.parse(source)
        commit = hub.commit(repo, revision)
        table, name = hub_table(repo, commit, config, "train"), "-".join(filter(None, [repo.split("/")[1], config]))
    columns = (pick(IMAGE_COLUMNS, table, source), pick(LABEL_COLUMNS, table, source))
    found = decode(name, table, columns, benchmark, source, commit, workers, real=False)
    found = renamed(found, name, without_machine(source))
    counts = torch.bincount(found.labels, minlength=len(found.class_names))
    if found.ipc is None or found.ipc == 0:
        few, many = int(counts.argmin()), int(counts.argmax())
        raise UserError(
            f"{source}: class '{found.class_names[few]}' has {counts[few]} images and class "
            f"'{found.class_names[many]}' has {counts[many]}; a distilled set has the same number in every class."
        )
    return found


def embedded_sets():
    """Names of the image sets that the package carries."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/train-*.parquet"))


def local_table(path, split):
    """A `datasets.Dataset` of the parquet file, parquet folder or image folder at `path`, undecoded."""
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(path.glob(f"{split}*.parquet")) or sorted(path.glob(f"*/{split}*.parquet"))
        if not files and split == "test":
            files = sorted(path.glob("val*.parquet")) or sorted(path.glob("*/val*.parquet"))
    else:
        raise UserError(f"no folder or file '{path}'; give the folder that holds parquet files or one folder per class.")
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
        raise UserError(f"'{path}' holds {len(folders)} sets ({', '.join(folders[:3])}); give one of these folders.")
    if files:
        try:
            return datasets.Dataset.from_parquet([glob.escape(str(file)) for file in files], keep_in_memory=False)
        except Exception as error:  # pyarrow and datasets raise many kinds for a file that is not parquet
            raise UserError(f"{files[0]} cannot be read as parquet: {hub.one_line(error)}") from error
    return image_folder(path / split if (path / split).is_dir() else path, split)


def image_folder(path, split):
    """One folder per class, files in sorted order; class names are the folder names, sorted."""
    classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    files = [(file, k) for k, name in enumerate(classes) for file in sorted((path / name).iterdir())]
    files = [(file, k) for file, k in files if file.suffix.lower() in EXTENSIONS]
    if not files:
        raise UserError(
            f"'{path}' holds neither {split}*.parquet nor one folder of images per class; found "
            f"{', '.join(sorted(entry.name for entry in os.scandir(path))[:5]) or 'nothing'}."
        )
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    rows = {"image": [{"path": str(f), "bytes": None} for f, _ in files], "label": [k for _, k in files]}
    return datasets.Dataset.from_dict(rows, features=features)


def hub_table(repo, commit, config, split):
    """Split `split` of a Hub dataset repo at `commit`; scripts in a repo are refused by `datasets`, never run."""
    try:
        return datasets.load_dataset(repo, config, revision=commit, split=split)
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{repo}@{commit[:8]} cannot be read as a dataset: {hub.one_line(error)}") from error


def pick(names, table, source):
    """The first of `names` that is a column of `table`."""
    for name in names:
        if name in table.column_names:
            return name
    raise UserError(f"{source} has columns {', '.join(table.column_names)}; wanted one of {', '.join(names)}.")


def decode(name, table, columns, benchmark, source, commit, workers, real):
    """The ImageSet of a `datasets` table: every image decoded once to uint8 [3, S, S], labels in benchmark order.

    `real` images follow the benchmark's resize rule; others must have the benchmark's size.
    """
    image_column, label_column = columns
    for column in columns:
        if column not in table.column_names:
            raise UserError(f"{source} has columns {', '.join(table.column_names)}; wanted '{column}'.")
    labels = benchmark_labels(table, label_column, benchmark, source)
    undecoded = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    size, resize = benchmark.image.size, benchmark.image.shorter_side if real else 0
    # where an image folder's files may lie: the caches for one on the Hub, else the folder itself
    roots = [Path(p).resolve() for p in (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, source)]
    images = np.empty((len(table), 3, size, size), np.uint8)

    def decode_rows(start):
        for row, cell in enumerate(undecoded[start : start + 256][image_column], start):
            images[row] = pixels(cell, size, resize, f"{source}: image {row}", roots)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(pool.map(decode_rows, range(0, len(table), 256)))
    return make(name, images, labels, benchmark.classes, source, commit)


def pixels(cell, size, shorter_side, where, roots):
    """One image file's pixels as uint8 [3, size, size]; grey becomes three equal channels, exactly.

    A cell that names a file instead of holding bytes is read only if that file lies under one of `roots`.
    """
    if not isinstance(cell, dict) or (cell.get("bytes") is None and cell.get("path") is None):
        raise UserError(f"{where} is {str(cell)[:40]}, wanted an image.")
    if cell["bytes"] is None and not any(Path(cell["path"]).resolve().is_relative_to(root) for root in roots):
        raise UserError(f"{where} is a path outside its folder ('{cell['path']}'), wanted the image itself.")
    try:
        image = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} cannot be decoded ({hub.one_line(error)}); replace the file.") from error
    if image.mode not in MODES:
        raise UserError(f"{where} has mode {image.mode}; wanted 8-bit RGB or grey, convert it first.")
    if "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{where} is transparent (mode {image.mode}); wanted RGB or grey, flatten it first.")
    image = image.convert("RGB")
    if shorter_side:
        width, height = image.size
        scale = shorter_side / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    if image.size != (size, size):
        raise UserError(f"{where} is {image.width}x{image.height}, wanted {size}x{size}; resize the set first.")
    return np.asarray(image).transpose(2, 0, 1)


def benchmark_labels(table, column, benchmark, source):
    """Labels int64 [N] as indices into the benchmark's classes, mapped by name where the file has names."""
    feature, classes = table.features[column], benchmark.classes
    dtype = getattr(feature, "dtype", None)
    if dtype not in ("string", *INTEGER_TYPES):
        raise UserError(f"{source}: column '{column}' holds {dtype or feature}, wanted class names or whole numbers.")
    values = table[column][:]
    if None in values:
        raise UserError(f"{source}: row {values.index(None)} has no label in column '{column}'; every image needs a class.")
    if isinstance(feature, datasets.ClassLabel):
        if min(values, default=0) < 0:
            raise UserError(f"{source}: row {values.index(min(values))} has label {min(values)}, which means unlabelled.")
        stray = sorted(set(feature.names) - set(classes))
        if stray:
            raise UserError(
                f"{source} has class '{stray[0]}' ({len(stray)} such of {len(feature.names)}), which {benchmark.name} has "
                f"not: its classes are {', '.join(classes[:3])} ... {classes[-1]}; rename the classes."
            )
        values = [classes.index(feature.names[value]) for value in values]
    elif feature.dtype == "string":
        stray = sorted(set(values) - set(classes))
        if stray:
            raise UserError(f"{source} has class '{stray[0]}', which {benchmark.name} has not; rename the classes.")
        values = [classes.index(value) for value in values]
    labels = np.asarray(values, np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(
            f"{source} has labels {labels.min()}..{labels.max()}, wanted 0..{len(classes) - 1} for {benchmark.name}."
        )
    return labels


def sklearn_digits(split):
    """The digits that scikit-learn carries: uint8 [N, 3, 8, 8] and labels [N] of the fixed stratified split.

    In every class the rows are put in the order of a Philox stream of key 0; the first 28 % (500 in all, shares
    rounded so that they sum to it) are the test split.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    counts = np.bincount(labels)
    exact = counts * 500 / counts.sum()
    share = np.floor(exact).astype(int)
    share[np.argsort(-(exact - share), kind="stable")[: 500 - share.sum()]] += 1
    key = np.random.Philox(key=0).random_raw(len(labels))
    test = np.concatenate(
        [(rows := np.flatnonzero(labels == k))[np.argsort(key[rows])][: share[k]] for k in range(len(counts))]
    )
    rows = np.sort(test) if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    grey = np.floor(bunch.images[rows] * 255 / 16 + 0.5).astype(np.uint8)  # [N, 8, 8]
    return np.repeat(grey[:, None], 3, axis=1), labels[rows]


def save(images, folder):
    """Write `images` as `train-00000-of-00001.parquet` (PNG bytes, class names kept) into `folder`; the file's path."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.class_names))})
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.images]
    table = datasets.Dataset.from_dict({"image": pictures, "label": images.labels.tolist()}, features=features)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train-00000-of-00001.parquet"
    temporary = path.with_suffix(".tmp")
    table.to_parquet(str(temporary))
    os.replace(temporary, path)
    return path


def renamed(images, name, source):
    """The same set under another name and source."""
    return dataclasses.replace(images, name=name, source=source)
