"""Tables: real data as it is published elsewhere is read as stated, or refused in one clear line."""

import dataclasses
import io
import json
import os
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from rd3_utils.data import decoded, decoding, embedded, selections, tables
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks


@pytest.fixture
def small(digits):
    """Digits as a benchmark of two images per class and split, of which any number may be found."""
    data = dataclasses.replace(digits.data, train_images=20, test_images=20)
    return dataclasses.replace(digits, data=data)


def picture(seed, size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def folders(root, classes, change=None, form="png"):
    """Two pictures per class in folders; `change` = (class, picture) replaces that class's first one."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(2):
            image = change[1] if change and change[0] == name and i == 0 else picture(10 * k + i)
            image.save(root / name / f"{i}.{form}")


def parquet(path, names, labels, pictures, columns=("image", "label"), feature=None):
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: feature or datasets.ClassLabel(names=names)})
    rows = {columns[0]: pictures, columns[1]: labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_photographs_are_resized_and_cropped_as_torchvision_does_to_the_bit():
    theirs = Compose([Resize(256), CenterCrop(224)])
    for size in ((500, 375), (375, 500), (257, 1000), (256, 256), (333, 222), (224, 640), (90, 81)):
        image = picture(size[0], size)
        wanted = np.asarray(theirs(image)).transpose(2, 0, 1)
        assert np.array_equal(decoding.pixels(image, 224, 256, "x"), wanted)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_grey_opaque_palette_and_cmyk_photographs_become_rgb_as_pil_converts_them(small, tmp_path, mode):
    odd = picture(5).convert("RGB").convert(mode)
    folders(tmp_path / "test", small.classes, ("3", odd), "tiff" if mode == "CMYK" else "png")
    if mode == "CMYK":
        for file in tmp_path.rglob("*.tiff"):  # a JPEG may be CMYK; the name does not matter
            file.rename(file.with_suffix(".jpg"))
    found = image_sets.test_split(small, tmp_path)
    assert np.array_equal(found.images[6].permute(1, 2, 0), odd.convert("RGB"))


@pytest.mark.parametrize(
    "image, wanted",
    [
        (picture(1, (9, 8)), r"image 6 \(3/0.png\) is 9x8, wanted 8x8; resize the set first"),
        (Image.new("RGBA", (8, 8), (9, 9, 9, 100)), r"image 6 \(3/0.png\) is transparent \(mode RGBA\)"),
        (Image.new("I;16", (8, 8)), r"image 6 \(3/0.png\) has mode I;16; wanted 8-bit RGB or grey"),
    ],
)
def test_images_that_would_be_changed_silently_are_refused(small, tmp_path, image, wanted):
    folders(tmp_path / "test", small.classes, ("3", image))
    with pytest.raises(UserError, match=wanted):
        image_sets.test_split(small, tmp_path)


def test_permuted_classes_are_mapped_by_name_and_titles_count_as_names(small, tmp_path):
    titled = dataclasses.replace(small, titles=tuple(f"digit {k}" for k in range(10)))
    names = [titled.titles[k] if k % 2 else small.classes[k] for k in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    labels = list(range(10)) * 2
    parquet(tmp_path / "test-0.parquet", names, labels, [picture(i) for i in range(20)])
    found = image_sets.test_split(titled, tmp_path)
    assert found.labels.tolist() == [3, 1, 4, 0, 5, 9, 2, 6, 8, 7] * 2
    parquet(tmp_path / "words" / "test-0.parquet", None, [names[k] for k in labels], [picture(i) for i in range(20)],
            feature=datasets.Value("string"))  # fmt: skip
    assert image_sets.test_split(titled, tmp_path / "words").labels.tolist() == found.labels.tolist()


def test_two_names_for_one_class_are_refused(small, tmp_path):
    titled = dataclasses.replace(small, titles=tuple(f"digit {k}" for k in range(10)))
    names = ["digit 1", *small.classes[1:], "0"]
    parquet(tmp_path / "test-0.parquet", names, [*range(10)] * 2, [picture(i) for i in range(20)])
    with pytest.raises(UserError, match="two classes that both mean '1'; merge them"):
        image_sets.test_split(titled, tmp_path)


@pytest.mark.parametrize(
    "classes, wanted",
    [
        ([*"0123456789", "ten"], r"has class 'ten' \(1 such of 11\), which digits has not: its classes are 0, 1, 2"),
        ([*"012345678"], r"the test split has no image of class '9' \(1 such of 10 classes of digits\)"),
    ],
)
def test_extra_and_missing_classes_are_named(small, tmp_path, classes, wanted):
    folders(tmp_path / "test", classes)
    with pytest.raises(UserError, match=wanted):
        image_sets.test_split(small, tmp_path)


def test_a_missing_split_is_named_with_what_was_found(small, tmp_path):
    folders(tmp_path / "train", small.classes)
    assert len(tables.real(small, "train", tmp_path)) == 20
    with pytest.raises(
        UserError,
        match=r"holds no test split: wanted test\*.parquet or a folder test with one folder of images per class; found train",
    ):
        image_sets.test_split(small, tmp_path)
    with pytest.raises(UserError, match="no folder or file"):
        image_sets.test_split(small, tmp_path / "nowhere")


def test_other_column_names_are_listed(small, tmp_path):
    parquet(tmp_path / "test-0.parquet", list(small.classes), [*range(10)] * 2, [picture(i) for i in range(20)], ("photo", "y"))
    with pytest.raises(UserError, match="has columns photo, y; wanted one of image, img: rename it"):
        image_sets.test_split(small, tmp_path)


def test_the_official_test_split_is_taken_before_a_file_called_otherwise(small, tmp_path):
    """ImageNet's own test images have no labels: there the benchmark's test split is `validation`."""
    valid = dataclasses.replace(small, data=dataclasses.replace(small.data, test="validation"))
    names, pictures = list(small.classes), [picture(i) for i in range(20)]
    parquet(tmp_path / "test-0.parquet", names, [-1] * 20, pictures)
    parquet(tmp_path / "val-0.parquet", names, [*range(10)] * 2, pictures)
    assert len(image_sets.test_split(valid, tmp_path)) == 20
    with pytest.raises(UserError, match="row 0 has label -1, which means unlabelled"):
        image_sets.test_split(small, tmp_path)


def test_a_benchmark_that_is_part_of_another_reads_only_its_own_rows(small, digits, tmp_path):
    """Four classes of digits in a repo of ten; the others' images are never opened. Without names, the whole's order counts."""
    part = dataclasses.replace(
        small, name="four", classes=("2", "5", "7", "8"), data=dataclasses.replace(small.data, part_of="digits", test_images=8)
    )
    pictures = [picture(i) for i in range(20)]
    labels = [*range(10)] * 2
    parquet(tmp_path / "test-0.parquet", list(digits.classes), labels, pictures)
    found = image_sets.test_split(part, tmp_path)
    assert found.labels.tolist() == [0, 1, 2, 3] * 2 and np.array_equal(found.images[1].permute(1, 2, 0), pictures[5])
    parquet(tmp_path / "numbers" / "test-0.parquet", None, labels, pictures, feature=datasets.Value("int64"))
    assert image_sets.test_split(part, tmp_path / "numbers").fingerprint == found.fingerprint
    with pytest.raises(UserError, match=r"has class '0' \(6 such of 10\), which four has not"):
        image_sets.read(str(tmp_path / "test-0.parquet"), part)  # a distilled set holds nothing but the benchmark's classes


def test_another_file_of_the_same_time_at_the_same_path_is_read_anew(tmp_path):
    """As unpacking an archive over a set, or copying with times, leaves it; `datasets` alone gives the images of before."""
    path, found = tmp_path / "train.parquet", []
    for ipc in (1, 10):
        shutil.copyfile(embedded.EMBEDDED / f"digits-dm-ipc{ipc}/train-00000-of-00001.parquet", path)
        os.utime(path, (1e9, 1e9))
        found.append(len(tables.local(tmp_path, ("train",))))
    assert found == [10, 100]


def test_only_selected_images_are_decoded(small, tmp_path, monkeypatch):
    folders(tmp_path / "train", small.classes)
    opened = []
    original = decoding.picture
    monkeypatch.setattr(tables, "picture", lambda *a: opened.append(1) or original(*a))
    found = selections.select("random:ipc=1,seed=0", small, lambda: tables.real(small, "train", tmp_path))
    assert len(found) == 10 and len(opened) == 10 + 20  # and those that tell the split from others: of a small one all
    opened.clear()
    monkeypatch.setattr(tables, "PROBED_BYTES", 0)
    monkeypatch.setattr(tables, "PROBED", 3)
    assert len(selections.select("random:ipc=1,seed=0", small, lambda: tables.real(small, "train", tmp_path))) == 10
    assert len(opened) == 10 + 3


@pytest.fixture
def mapped(monkeypatch, tmp_path):
    """Every set counts as large: decoded once into a folder of this test."""
    monkeypatch.setattr(image_sets, "MAPPED", 0)
    monkeypatch.setattr(decoded, "DECODED", tmp_path / "cache")
    return tmp_path / "cache"


def test_a_large_set_is_decoded_once_and_is_the_same_data(small, tmp_path, mapped, monkeypatch):
    folders(tmp_path / "a" / "test", small.classes)
    first = image_sets.test_split(small, tmp_path / "a")
    monkeypatch.setattr(tables, "pixels", None)  # a second decoding would fail
    again = image_sets.test_split(small, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = image_sets.test_split(small, tmp_path / "moved")
    monkeypatch.undo()
    plain = image_sets.test_split(small, tmp_path / "moved")
    assert first.fingerprint == again.fingerprint == moved.fingerprint == plain.fingerprint
    assert all(torch.equal(found.images, plain.images) for found in (first, again, moved))
    assert len(list(mapped.iterdir())) == 1


def test_a_changed_image_label_or_rule_is_another_entry(small, tmp_path, mapped):
    folders(tmp_path / "test", small.classes)
    image_sets.test_split(small, tmp_path)
    (tmp_path / "test" / "0" / "0.png").rename(tmp_path / "test" / "1" / "2.png")
    image_sets.test_split(small, tmp_path)
    resized = dataclasses.replace(small, image=dataclasses.replace(small.image, shorter_side=8))
    image_sets.test_split(resized, tmp_path)
    picture(77).save(tmp_path / "test" / "5" / "1.png")
    image_sets.test_split(small, tmp_path)
    assert len(list(mapped.iterdir())) == 4


@pytest.mark.parametrize("damage", ["short", "no index", "half-written"])
def test_a_damaged_entry_is_decoded_again(small, tmp_path, mapped, damage):
    folders(tmp_path / "test", small.classes)
    first = image_sets.test_split(small, tmp_path)
    images = first.images.clone()
    (entry,) = mapped.iterdir()
    if damage == "short":
        (entry / "pixels.u8").write_bytes(b"12")
    elif damage == "no index":
        (entry / "index.json").unlink()
    else:
        (entry / "index.json").unlink()
        (entry / "pixels.u8").rename(entry / ".pixels.u8.1-00000000.partial")
    again = image_sets.test_split(small, tmp_path)
    assert {path.name for path in entry.iterdir()} == {".lock", "index.json", "pixels.u8"}
    assert torch.equal(images, again.images) and first.fingerprint == again.fingerprint
    assert json.loads((entry / "index.json").read_text())["fingerprint"] == first.fingerprint


def test_a_full_disk_is_said_before_anything_is_decoded(small, tmp_path, mapped, monkeypatch):
    folders(tmp_path / "test", small.classes)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match="20 decoded images take 3.84 kB, 100 bytes are free where HF_HOME lies"):
        image_sets.test_split(small, tmp_path)


def test_the_whole_of_imagenet_is_refused_with_its_size_before_it_is_looked_for():
    imagenet = benchmarks.load("imagenet-1k")

    def train():
        raise AssertionError("the train split was asked for")

    with pytest.raises(
        UserError, match="1281167 images of imagenet-1k are 193 GB as 8-bit pixels, more than 64 GB.*pretrained network"
    ):
        selections.select("full", imagenet, train)
    with pytest.raises(UserError, match="500000 images of imagenet-1k are 75.3 GB"):
        selections.select("random:ipc=500,seed=0", imagenet, train)
    with pytest.raises(AssertionError, match="was asked for"):
        selections.select("random:ipc=200,seed=0", imagenet, train)  # 30 GB are mapped from disk


def test_a_file_that_is_no_image_is_named(small, tmp_path):
    folders(tmp_path / "test", small.classes)
    (tmp_path / "test" / "4" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"image 8 \(4/0.png\) cannot be decoded \(no image format is like it"):
        image_sets.test_split(small, tmp_path)


def test_one_folder_or_file_is_not_both_splits(small, tmp_path):
    """A flat folder of classes would be the train and the test split at once, and teachers would train on test images."""
    folders(tmp_path / "flat", small.classes)
    parquet(tmp_path / "all.parquet", list(small.classes), [*range(10)] * 2, [picture(i) for i in range(20)])
    for where in (tmp_path / "flat", tmp_path / "all.parquet"):
        for split in ("train", "test"):
            with pytest.raises(UserError, match=f"holds no {split} split"):
                tables.real(small, split, where)
    (tmp_path / "flat").rename(tmp_path / "test")
    assert len(tables.real(small, "test", tmp_path / "test")) == 20


def test_hidden_and_foreign_files_of_an_image_folder_are_left_out(small, tmp_path):
    folders(tmp_path / "test", small.classes)
    (tmp_path / "test" / "0" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "test" / "0" / "notes.txt").write_text("x")
    (tmp_path / "test" / "0" / "x.png").mkdir()
    (tmp_path / "test" / ".ipynb_checkpoints").mkdir()
    assert len(image_sets.test_split(small, tmp_path)) == 20


CELLS = {
    "nothing": (None, "is None, wanted an image"),
    "no file": ({"bytes": None, "path": "{root}/gone.png"}, r"\(.*gone.png\) cannot be read"),
    "empty": ({"bytes": None, "path": None}, "wanted an image"),
    "outside": ({"bytes": None, "path": "/etc/hostname"}, "is a path outside its folder"),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("cell, wanted", CELLS.values(), ids=CELLS)
def test_a_bad_cell_is_named_whether_the_set_is_small_or_large(small, tmp_path, monkeypatch, large, cell, wanted):
    if large:
        monkeypatch.setattr(image_sets, "MAPPED", 0)
        monkeypatch.setattr(decoded, "DECODED", tmp_path / "cache")
    if cell and cell["path"]:
        cell = {**cell, "path": cell["path"].format(root=tmp_path)}
    bytes_of = [{"bytes": png(i), "path": None} for i in range(20)]
    bytes_of[13] = cell
    raw(tmp_path / "test-0.parquet", small, {"image": bytes_of, "label": [*range(10)] * 2})
    with pytest.raises(UserError, match=f"image 13.*{wanted}"):
        image_sets.test_split(small, tmp_path)


def raw(path, benchmark, rows):
    """Parquet as others write it: nothing is embedded or checked, but columns of images and classes are called so."""
    features = {}
    if isinstance(rows["image"][0], dict):
        features["image"] = datasets.Image(decode=False)
    if isinstance(rows["label"][0], int):
        features["label"] = datasets.ClassLabel(names=list(benchmark.classes))
    table = pa.table(rows)
    described = datasets.Features({**datasets.Features.from_arrow_schema(table.schema), **features})
    text = json.dumps({"info": {"features": described.to_dict()}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)


def png(seed):
    data = io.BytesIO()
    picture(seed).save(data, "png")
    return data.getvalue()


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"label": [11, *range(1, 10)] * 2}, "row 0 has label 11, and only 10 classes have names"),
        ({"image": [*range(20)]}, "column 'image' holds int64, wanted images"),
        ({"label": [0.5] * 20}, "column 'label' holds double|float64, wanted class names or whole numbers"),
    ],
)
def test_columns_that_hold_something_else_are_named(small, tmp_path, change, wanted):
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(20)], "label": [*range(10)] * 2, **change}
    raw(tmp_path / "test-0.parquet", small, rows)
    with pytest.raises(UserError, match=wanted):
        image_sets.test_split(small, tmp_path)


def test_a_palette_image_with_transparency_is_refused(small, tmp_path):
    folders(tmp_path / "test", small.classes)
    palette = picture(1).convert("P")
    palette.save(tmp_path / "test" / "3" / "0.png", transparency=palette.getpixel((0, 0)))
    with pytest.raises(UserError, match="is transparent"):
        image_sets.test_split(small, tmp_path)


def test_a_cache_that_cannot_be_written_is_said_in_one_line(small, tmp_path, mapped):
    mapped.write_text("a file where the folder should be")
    folders(tmp_path / "test", small.classes)
    with pytest.raises(UserError, match="cannot be kept in .*set HF_HOME to a folder that can be written"):
        image_sets.test_split(small, tmp_path)


def test_another_decoder_is_another_entry(small, tmp_path, mapped, monkeypatch):
    folders(tmp_path / "test", small.classes)
    image_sets.test_split(small, tmp_path)
    monkeypatch.setattr(tables, "DECODER", "Pillow of tomorrow")
    image_sets.test_split(small, tmp_path)
    assert len(list(mapped.iterdir())) == 2
