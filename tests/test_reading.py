"""Reading costs no more than it must: what is kept of files is what they are, and is never believed of other files."""

import dataclasses
import os
import random
import tracemalloc
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import PROJECT
from test_tables import folders as write_folders
from test_tables import parquet, picture, png

from rd3_utils.arms import planned_runs
from rd3_utils.data import decoded, decoding, parquet_files, selections, stamps, tables
from rd3_utils.data import folders as image_folders
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.protocols import protocol as protocols


@pytest.fixture
def small(digits):
    """Digits as a benchmark of two images per class and split."""
    return dataclasses.replace(digits, data=dataclasses.replace(digits.data, train_images=20, test_images=20))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Caches of this test, every set large, and files that count as settled at once."""
    monkeypatch.setattr(image_sets, "MAPPED", 0)
    monkeypatch.setattr(decoded, "DECODED", tmp_path / "kept/decoded")
    monkeypatch.setattr(stamps, "STAMPS", tmp_path / "kept/stamps")
    monkeypatch.setattr(image_folders, "LISTINGS", tmp_path / "kept/listings")
    monkeypatch.setattr(stamps, "SETTLED", -(10**18))
    return tmp_path / "kept"


@pytest.fixture
def counted(monkeypatch):
    """A function that counts the calls of another: counted(module, name) is the list that grows."""

    def count(module, name):
        calls, original = [], getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(a) or original(*a, **k))
        return calls

    return count


# --- parquet


def test_parquet_rows_are_those_of_datasets_whatever_their_order_groups_and_files(digits, tmp_path):
    draw = random.Random(0)
    for i, (count, group) in enumerate(((150, 7), (3, 100), (70, 1000))):
        rows = {"image": [picture(100 * i + j) for j in range(count)], "label": [draw.randrange(10) for _ in range(count)]}
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.classes))}
        datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(tmp_path / f"train-{i}.parquet", group)
    files = sorted(tmp_path.glob("*.parquet"))
    oracle = datasets.Dataset.from_parquet([str(file) for file in files], cache_dir=str(tmp_path / "cache"))
    read = parquet_files.parquet_files(files)
    assert (len(read), read.features, read.column_names) == (len(oracle), oracle.features, oracle.column_names)
    assert list(read["label"]) == oracle["label"][:]
    cells = oracle.cast_column("image", datasets.Image(decode=False))["image"]
    for rows in ([], [222], [draw.randrange(223) for _ in range(300)], range(223), [149, 150, 152, 153, 6, 7]):
        rows = np.array(rows, np.int64)
        given = {int(place): cell for places, some in read.images("image").batches(rows) for place, cell in zip(places, some)}
        assert given == {place: cells[int(row)] for place, row in enumerate(rows)}


def test_only_row_groups_with_drawn_rows_are_read(digits, tmp_path, counted):
    parquet(tmp_path / "train.parquet", list(digits.classes), [*range(10)] * 20, [picture(i) for i in range(200)])
    pq.write_table(pq.read_table(tmp_path / "train.parquet"), tmp_path / "train.parquet", row_group_size=10)
    read = counted(parquet_files.ParquetImages, "of_group")
    list(parquet_files.parquet_files([tmp_path / "train.parquet"]).images("image").batches(np.array([3, 77, 75, 199])))
    assert [call[3] for call in read] == [0, 7, 19]


@pytest.mark.parametrize("damage", ["cut", "pages", "columns"])
def test_damaged_parquet_is_one_line(small, tmp_path, damage):
    for name in ("test-0.parquet", "test-1.parquet"):
        parquet(tmp_path / name, list(small.classes), [*range(10)], [picture(i) for i in range(10)])
    data = bytearray((tmp_path / "test-1.parquet").read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "pages":
        data[4:600] = bytes(596)
    if damage == "columns":
        pq.write_table(pa.table({"image": [png(0)], "other": [0]}), tmp_path / "test-1.parquet")
    else:
        (tmp_path / "test-1.parquet").write_bytes(data)
    with pytest.raises(
        UserError, match=r"test-1.parquet (cannot be read as parquet|has columns image, other, wanted image, label)"
    ):
        image_sets.test_split(small, tmp_path)


# --- image folders


def test_a_listing_is_what_sorted_paths_say(tmp_path):
    draw, names = (
        random.Random(1),
        ["b.PNG", "a.Jpeg", "ß.png", "é.webp", "😀.bmp", "Z z.jpg", ".h.png", "x.png.txt", "png", "_.png"],
    )
    for k in ("n2", "n10", "N1", "ü", ".hidden"):
        (tmp_path / "train" / k).mkdir(parents=True)
        for name in draw.sample(names, 7):
            (tmp_path / "train" / k / name).write_bytes(b"")
    (tmp_path / "train/n2/folder.png").mkdir()
    (tmp_path / "train/n2/link.png").symlink_to(tmp_path / "train/n10/png")
    (tmp_path / "train/n2/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train/n3").symlink_to(tmp_path / "train/ü")
    (tmp_path / "train/n10/png").write_bytes(b"")
    classes = sorted(p.name for p in (tmp_path / "train").iterdir() if not p.name.startswith("."))
    endings = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
    wanted = [(file, k) for k, name in enumerate(classes) for file in sorted((tmp_path / "train" / name).iterdir())
              if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()]  # fmt: skip
    folder = image_folders.image_folder(tmp_path / "train", "train").listed(np.ones(len(classes), bool))
    assert folder.features["label"].names == classes
    assert [(folder.file(i), int(k)) for i, k in enumerate(folder["label"])] == wanted and len(folder) == len(wanted)


def test_a_folder_that_changed_is_looked_into_again_and_no_other(small, tmp_path, kept, counted):
    write_folders(tmp_path / "train", small.classes)
    (tmp_path / "train/0/2.png").symlink_to(tmp_path / "train/1/0.png")
    looked = counted(image_folders, "names_in")

    def listed():
        looked.clear()
        folder = image_folders.image_folder(tmp_path / "train", "train").listed(np.ones(10, bool))
        names = [f"{folder.file(i).parent.name}/{folder.file(i).name}" for i in range(len(folder))]
        assert names == sorted(f"{p.parent.name}/{p.name}" for p in (tmp_path / "train").rglob("*.png") if p.is_file())
        return [call[0].name for call in looked]

    assert listed() == list(small.classes) and listed() == ["0"]  # whose link may lead elsewhere any time
    (tmp_path / "train/0/2.png").unlink()
    assert listed() == ["0"] and listed() == []
    (tmp_path / "train/4/0.png").rename(tmp_path / "train/4/5.png")
    assert listed() == ["4"]
    (tmp_path / "train/4/5.png").rename(tmp_path / "train/7/9.png")
    assert listed() == ["4", "7"] and listed() == []
    times = (tmp_path / "train/3").stat()
    (tmp_path / "train/3").rename(tmp_path / "gone")
    (tmp_path / "train/3").mkdir()
    picture(1).save(tmp_path / "train/3/other.png")
    os.utime(tmp_path / "train/3", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert listed() == ["3"] and listed() == []


@pytest.mark.parametrize("damage", [b"", b"x" * 200, "flipped", "cut"])
def test_a_damaged_listing_is_made_again(small, tmp_path, kept, counted, damage):
    write_folders(tmp_path / "train", small.classes)
    table = tables.real(small, "train", tmp_path)
    (file,) = (file for file in (kept / "listings").iterdir() if not file.name.endswith(".lock"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes({"flipped": data, "cut": data[:-5]}.get(damage, damage))
    looked = counted(image_folders, "names_in")
    again = tables.real(small, "train", tmp_path)
    assert len(looked) == 10 and [again.files.file(i) for i in range(20)] == [table.files.file(i) for i in range(20)]


def test_a_folder_of_this_moment_is_not_believed(small, tmp_path, kept, monkeypatch, counted):
    """A file that comes within the same tick of the clock would leave the folder's times as they are."""
    monkeypatch.setattr(stamps, "SETTLED", 10**18)
    write_folders(tmp_path / "train", small.classes)
    looked = counted(image_folders, "names_in")
    for _ in range(2):
        tables.real(small, "train", tmp_path)
    assert len(looked) == 20 and not [p for p in kept.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_listing_of_200_000_files_takes_a_few_bytes_for_each(tmp_path, kept, monkeypatch):
    classes = [f"n{k:08}" for k in range(100)]
    for name in classes:
        (tmp_path / "train" / name).mkdir(parents=True)
    own = {name: b"".join(b"%s_%d.JPEG\0" % (name.encode(), i) for i in range(2_000)) for name in classes}
    monkeypatch.setattr(image_folders, "names_in", lambda folder: (own[folder.name], True))
    folder = image_folders.ImageFolder(tmp_path / "train", tuple(classes))
    for _ in range(2):  # as listed, and as kept
        tracemalloc.start()
        listed = folder.listed(np.ones(100, bool))
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(listed) == 200_000 and held < 40 * 200_000 and peak < 120 * 200_000
    assert listed.file(123_456) == tmp_path / "train" / classes[61] / f"{classes[61]}_1456.JPEG"


def test_folders_of_another_benchmarks_classes_are_not_looked_into(small, tmp_path, counted):
    part = dataclasses.replace(small, name="two", classes=("2", "5"),
                               data=dataclasses.replace(small.data, part_of="digits", train_images=4))  # fmt: skip
    write_folders(tmp_path / "train", small.classes)
    looked = counted(image_folders, "names_in")
    table = tables.real(part, "train", tmp_path)
    assert {call[0].name for call in looked} == {"2", "5"} and table.labels.tolist() == [0, 0, 1, 1]


def test_links_to_a_split_a_class_and_a_file_are_followed(small, tmp_path):
    write_folders(tmp_path / "far/a", small.classes)
    plain = image_sets.of_table(tables.real(small, "test", linked(tmp_path / "one", tmp_path / "far/a")))
    (tmp_path / "far/a/3").rename(tmp_path / "far/three")
    (tmp_path / "far/a/3").symlink_to(tmp_path / "far/three")
    (tmp_path / "far/a/4/0.png").rename(tmp_path / "far/0.png")
    (tmp_path / "far/a/4/0.png").symlink_to(tmp_path / "far/0.png")
    assert image_sets.of_table(tables.real(small, "test", linked(tmp_path / "two", tmp_path / "far/a"))).fingerprint == (
        plain.fingerprint
    )


def linked(folder, split):
    folder.mkdir()
    (folder / "test").symlink_to(split)
    return folder


def test_files_that_lie_anywhere_are_a_table_too(small, tmp_path):
    write_folders(tmp_path / "test", small.classes)
    files = sorted((tmp_path / "test").rglob("*.png"), key=lambda file: file.read_bytes())
    labels = np.array([int(file.parent.name) for file in files])
    origin = tables.TableOrigin("x", "alice/x", "0" * 40, True)
    scattered = tables.of_dataset(
        image_folders.ImageFiles(tuple(files), labels, small.classes), ("image", "label"), small, origin
    )
    folder = tables.real(small, "test", tmp_path)
    rows = [[folder.files.file(i) for i in range(20)].index(file) for file in files]
    assert image_sets.of_table(scattered).fingerprint == image_sets.of_table(folder, np.array(rows)).fingerprint


def test_columns_may_be_stated_elsewhere(digits, tmp_path):
    """As a repo's card does of files that say nothing themselves."""
    pq.write_table(pa.table({"image": [{"bytes": png(0), "path": None}], "label": [3]}), tmp_path / "train.parquet")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.classes))})
    read = parquet_files.parquet_files([tmp_path / "train.parquet"], kinds)
    assert read.features == kinds and read["label"].tolist() == [3]
    ((_, cells),) = read.images("image").batches(np.array([0]))
    assert cells == [{"bytes": png(0), "path": None}]


# --- decoded once


@pytest.mark.parametrize("form", ["folders", "parquet"])
def test_a_second_command_opens_no_image_and_has_the_same_bits(small, tmp_path, kept, monkeypatch, form):
    if form == "folders":
        write_folders(tmp_path / "train", small.classes)
    else:
        parquet(tmp_path / "train.parquet", list(small.classes), [*range(10)] * 2, [picture(i) for i in range(20)])

    def drawn():
        return selections.select("random:ipc=1,seed=0", small, lambda: tables.real(small, "train", tmp_path))

    first = drawn()
    monkeypatch.setattr(tables, "content", None)  # nothing can be opened
    monkeypatch.setattr(image_sets, "fingerprint", None)  # or hashed
    again = drawn()
    monkeypatch.undo()
    plain = drawn()
    assert first.fingerprint == again.fingerprint == plain.fingerprint and first.train == again.train == plain.train
    assert torch.equal(again.images, plain.images) and torch.equal(again.labels, plain.labels)


def test_an_image_replaced_with_its_times_kept_is_another_set(small, tmp_path, kept):
    write_folders(tmp_path / "test", small.classes)
    target, times = tmp_path / "test/6/0.png", (tmp_path / "test/6/0.png").stat()
    first = image_sets.test_split(small, tmp_path)
    for data in (png(77), png(78)):  # written into the file, then put in its place
        target.write_bytes(data) if data == png(77) else (tmp_path / "new").write_bytes(data)
        if data == png(78):
            (tmp_path / "new").replace(target)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        changed = image_sets.test_split(small, tmp_path)
        assert changed.fingerprint != first.fingerprint
        assert np.array_equal(changed.images[12], decoding.pixels(decoding.picture(data, ""), 8, 0, ""))


def test_pixels_that_were_touched_are_hashed_and_if_they_differ_decoded_again(small, tmp_path, kept, counted):
    write_folders(tmp_path / "test", small.classes)
    hashed = counted(image_sets, "fingerprint")
    first = image_sets.test_split(small, tmp_path)
    images = first.images.clone()
    (file,) = kept.rglob("pixels.u8")
    hashed.clear()
    os.utime(file)
    assert image_sets.test_split(small, tmp_path).fingerprint == first.fingerprint and len(hashed) == 1
    assert image_sets.test_split(small, tmp_path).fingerprint == first.fingerprint and len(hashed) == 1
    times = file.stat()
    with open(file, "r+b") as pixels:
        pixels.seek(100)
        pixels.write(b"12345")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = image_sets.test_split(small, tmp_path)
    assert again.fingerprint == first.fingerprint and torch.equal(again.images, images)


def test_an_index_whose_fingerprint_was_changed_is_not_believed(small, tmp_path, kept):
    write_folders(tmp_path / "test", small.classes)
    first = image_sets.test_split(small, tmp_path)
    (index,) = kept.rglob("index.json")
    index.write_text(index.read_text().replace(first.fingerprint, first.fingerprint[::-1]))
    assert image_sets.test_split(small, tmp_path).fingerprint == first.fingerprint


def test_files_that_a_parquet_cell_only_names_are_read_each_time(small, tmp_path, kept):
    """The parquet file's state says nothing of them."""
    from test_tables import raw

    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    cells = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(20)]
    raw(tmp_path / "test-0.parquet", small, {"image": cells, "label": [*range(10)] * 2})
    first = image_sets.test_split(small, tmp_path).fingerprint
    (tmp_path / "13.png").write_bytes(png(99))
    assert image_sets.test_split(small, tmp_path).fingerprint != first


# --- a launch that cannot run


def test_several_cpu_processes_with_batch_norm_are_refused_before_an_image_is_read(digits):
    two = SimpleNamespace(num_processes=2, distributed_type="MULTI_CPU")
    protocol = protocols.load("rd3-v1")
    options = SimpleNamespace(arms=None, full_hard="train", set=[], seeds=[0])
    if protocol.stated("training.batch_norm") != {"global"}:
        protocol = dataclasses.replace(protocol, rules=(), arms=protocol.arms,
                                       training=dataclasses.replace(protocol.training, batch_norm="global"))  # fmt: skip
    with pytest.raises(UserError, match="2 CPU processes have no synchronised batch norm"):
        planned_runs.check_start(options, digits, protocol, ["convnet3", "convnet3_bn"], two)
    planned_runs.check_start(options, digits, protocol, ["convnet3"], two)
    planned_runs.check_start(options, digits, protocol, ["convnet3_bn"], SimpleNamespace(num_processes=1))
    grouped = protocol.override(["training.batch_norm=groups:5"])
    planned_runs.check_start(options, digits, grouped, ["convnet3_bn"], two)
    main = (PROJECT / "train_student.py").read_text()
    assert main.index("planned_runs.check_start(") < main.index("planned_runs.plan(")
