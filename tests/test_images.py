"""Image sets: decoded exactly, fingerprinted, checked against the benchmark by name."""

import dataclasses
import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from rd3_utils.data import embedded, tables
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks


def test_digits_are_the_fixed_stratified_split_of_scikit_learn(digits, train, test_set):
    everything = np.repeat(np.floor(load_digits().images * 255 / 16 + 0.5)[:, None], 3, axis=1)
    ours = torch.cat([train.images, test_set.images]).flatten(1).tolist()
    assert sorted(ours) == sorted(everything.reshape(1797, -1).tolist())
    share = torch.bincount(test_set.labels) / torch.bincount(torch.cat([train.labels, test_set.labels]))
    assert (len(train), len(test_set)) == (1297, 500) and bool(((share - 500 / 1797).abs() < 0.006).all())
    assert (train.fingerprint[:8], test_set.fingerprint[:8]) == ("a7d826e2", "dce1bee8")


def test_the_benchmarks_mean_and_std_are_those_of_its_train_split(digits, train):
    x = train.images.float() / 255
    assert torch.allclose(x.mean((0, 2, 3)), torch.tensor(digits.image.mean), atol=1e-3)
    assert torch.allclose(x.std((0, 2, 3), unbiased=False), torch.tensor(digits.image.std), atol=1e-3)


def test_a_saved_set_reads_back_as_the_same_data(digits, ten, tmp_path):
    image_sets.save(ten, tmp_path / "mine")
    again = image_sets.read(str(tmp_path / "mine"), digits)
    assert again.fingerprint == ten.fingerprint and torch.equal(again.images, ten.images) and again.name == "mine"


def test_an_image_folder_reads_as_the_same_data(digits, ten, tmp_path):
    for image, label in zip(ten.images, ten.labels):
        folder = tmp_path / "set" / digits.classes[label]
        folder.mkdir(parents=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "a.png")
    assert image_sets.read(str(tmp_path / "set"), digits).fingerprint == ten.fingerprint


def test_classes_in_another_order_are_mapped_by_name(digits, ten, tmp_path):
    names = list(reversed(digits.classes))
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=names)})
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in ten.images]
    labels = [names.index(digits.classes[k]) for k in ten.labels]
    table = datasets.Dataset.from_dict({"img": pictures, "fine_label": labels}, features=features)
    table.to_parquet(str(tmp_path / "train.parquet"))
    assert image_sets.read(str(tmp_path), digits).fingerprint == ten.fingerprint


@pytest.mark.parametrize("form", ["new{:03d}", "{:05d}"])
def test_folders_that_number_the_classes_are_in_the_order_of_the_benchmark(digits, ten, tmp_path, form):
    """As SRe2L's (new000) and RDED's (00000) code writes them; one number too many, and none is taken for a number."""
    for image, label in zip(ten.images, ten.labels):
        folder = tmp_path / "set" / form.format(label)
        folder.mkdir(parents=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "a.png")
    assert image_sets.read(str(tmp_path / "set"), digits).fingerprint == ten.fingerprint
    (tmp_path / "set" / form.format(3)).rename(tmp_path / "set" / form.format(10))
    with pytest.raises(UserError, match=f"has class '{form.format(0)}' .10 such of 10., which digits has not"):
        image_sets.read(str(tmp_path / "set"), digits)


def test_grey_images_become_three_equal_channels_exactly(digits, ten, tmp_path):
    for image, label in zip(ten.images, ten.labels):
        folder = tmp_path / digits.classes[label]
        folder.mkdir()
        Image.fromarray(image[0].numpy()).save(folder / "a.png")
    assert image_sets.read(str(tmp_path), digits).fingerprint == ten.fingerprint


def test_the_fingerprint_sees_every_pixel_label_and_name(ten):
    def variant(images=ten.images, labels=ten.labels, names=ten.class_names):
        return image_sets.make("x", images, labels, names, "x").fingerprint

    other = ten.images.clone()
    other[3, 1, 2, 5] ^= 1
    assert variant() == ten.fingerprint
    assert len({variant(), variant(other), variant(labels=ten.labels.flip(0)), variant(names=ten.class_names[::-1])}) == 4


def parquet(tmp_path, ten, names, labels=None, picture=None):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in ten.images]
    pictures[4] = picture or pictures[4]
    table = datasets.Dataset.from_dict(
        {"image": pictures, "label": ten.labels.tolist() if labels is None else labels}, features=features
    )
    table.to_parquet(str(tmp_path / "train.parquet"))
    return str(tmp_path)


@pytest.mark.parametrize(
    "change, wanted",
    [
        (dict(names=[*"012345678", "nine"]), "has class 'nine'"),
        (dict(names=list("0123456789"), labels=[0] * 10), "the same number in every class"),
        (dict(names=list("0123456789"), picture=Image.new("RGB", (9, 8))), "image 4 is 9x8, wanted 8x8"),
        (dict(names=list("0123456789"), picture=Image.new("RGBA", (8, 8))), "transparent"),
        (dict(names=list("0123456789"), picture=Image.new("I;16", (8, 8))), "has mode I;16; wanted 8-bit RGB or grey"),
        (dict(names=list("0123456789"), labels=[0, 1, 2, 3, -1, 5, 6, 7, 8, 9]), "row 4 has label -1"),
        (dict(names=list("0123456789"), labels=[0, 1, 2, 3, None, 5, 6, 7, 8, 9]), "row 4 has no label"),
    ],
)
def test_a_wrong_set_is_refused_in_one_line(digits, ten, tmp_path, change, wanted):
    with pytest.raises(UserError, match=wanted):
        image_sets.read(parquet(tmp_path, ten, **change), digits)


def test_a_set_of_another_benchmark_is_refused_with_its_name(digits, ten, tmp_path):
    names = list(benchmarks.load("cifar10").classes)
    with pytest.raises(UserError, match="has class 'airplane' .10 such of 10., which digits has not.*give --benchmark cifar10"):
        image_sets.read(parquet(tmp_path, ten, names), digits)


def test_several_sets_in_one_folder_are_not_merged(digits, ten, tmp_path):
    for name in ("ipc1", "ipc10"):
        image_sets.save(ten, tmp_path / name)
    with pytest.raises(UserError, match="holds 2 sets"):
        image_sets.read(str(tmp_path), digits)


def test_labels_that_are_no_classes_are_refused(digits, ten, tmp_path):
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in ten.images]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float64")})
    table = datasets.Dataset.from_dict({"image": pictures, "label": [0.5 + k for k in range(10)]}, features=features)
    table.to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match="column 'label' holds float64"):
        image_sets.read(str(tmp_path), digits)


def test_an_absolute_path_is_not_recorded(digits, ten, tmp_path):
    image_sets.save(ten, tmp_path / "mine")
    assert image_sets.read(str(tmp_path / "mine"), digits).source == "mine"


def test_a_corrupt_image_is_named(digits, ten, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(ten.images[0].permute(1, 2, 0).numpy()).save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue(), "path": None}] * 9 + [{"bytes": buffer.getvalue()[:60], "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.classes))})
    datasets.Dataset.from_dict({"image": cells, "label": list(range(10))}, features=features).to_parquet(
        str(tmp_path / "train.parquet")
    )
    with pytest.raises(UserError, match="image 9 cannot be decoded"):
        image_sets.read(str(tmp_path), digits)


def test_a_table_cannot_read_files_outside_its_folder(digits, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.classes))})
    (tmp_path / "set").mkdir()
    rows = {"image": [{"bytes": None, "path": str(secret)}] * 10, "label": list(range(10))}
    table = datasets.Dataset.from_dict(rows, features=features).cast_column("image", datasets.Image(decode=False))
    import pyarrow.parquet

    pyarrow.parquet.write_table(table.data.table, tmp_path / "set" / "train.parquet")
    with pytest.raises(UserError, match="path outside its folder"):
        image_sets.read(str(tmp_path / "set"), digits)


def test_a_random_selection_is_real_balanced_and_nested(train, select):
    one, ten = (select(f"random:ipc={k},seed=4") for k in (1, 10))
    real = {image.numpy().tobytes(): int(label) for image, label in zip(train.images, train.labels)}
    assert (one.ipc, ten.ipc) == (1, 10)
    assert all(real[image.numpy().tobytes()] == label for image, label in zip(ten.images, ten.labels))
    assert {i.numpy().tobytes() for i in one.images} <= {i.numpy().tobytes() for i in ten.images}
    assert select("random:ipc=10,seed=5").fingerprint != ten.fingerprint


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("random:ipc=200", "asks for more; use ipc <="),
        ("random:ipc=0", "wanted at least 1"),
        ("random:ipc=ten", "not KEY=NUMBER"),
        ("random:ipcs=1", "did you mean 'ipc'"),
        ("random", "lacks ipc"),
        ("full:ipc=1", "takes no options"),
    ],
)
def test_a_wrong_selection_is_named(select, source, wanted):
    with pytest.raises(UserError, match=wanted):
        select(source)


def test_the_embedded_sets_are_what_their_own_record_says(digits):
    import json

    for name in embedded.image_sets():
        about = json.loads((embedded.EMBEDDED / name / "distilled.json").read_text())
        found = image_sets.read(name, digits)
        assert (found.fingerprint, found.ipc) == (about["fingerprint"], about["ipc"])


def test_real_data_from_a_folder_may_call_its_columns_otherwise(digits, train, tmp_path):
    """CIFAR-10 is img and label on the Hub, image and label in many copies; val*.parquet may hold the test split."""
    small = dataclasses.replace(digits, data=dataclasses.replace(digits.data, test_images=50))
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(digits.classes))})
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in train.images[:50]]
    table = datasets.Dataset.from_dict({"img": pictures, "fine_label": train.labels[:50].tolist()}, features=features)
    table.to_parquet(str(tmp_path / "validation-00000-of-00001.parquet"))
    found = image_sets.test_split(small, tmp_path)
    assert torch.equal(found.images, train.images[:50]) and torch.equal(found.labels, train.labels[:50])
    assert found.source == tmp_path.name


def test_real_data_from_a_folder_must_be_the_whole_split(digits, train, ten, tmp_path):
    image_sets.save(ten, tmp_path)
    with pytest.raises(UserError, match="has 10 images, wanted the official 1297"):
        tables.real(digits, "train", tmp_path)


@pytest.fixture
def made(ten, tmp_path):
    """The folder of a set that was made here, with its distilled.json."""
    about = {"method": "mine", "benchmark": "digits", "ipc": 1, "fingerprint": ten.fingerprint}
    image_sets.save_new(ten, tmp_path / "mine", about)
    return tmp_path / "mine"


def parquet_of(folder):
    return folder / "train-00000-of-00001.parquet"


def test_a_set_whose_images_changed_since_it_was_made_is_refused(digits, ten, made, tmp_path):
    """One grey level, two classes in another order; not so where distilled.json is gone, or speaks of another benchmark."""
    assert image_sets.read(str(made), digits).fingerprint == image_sets.read(str(parquet_of(made)), digits).fingerprint
    pixels, labels = ten.images.clone(), ten.labels.roll(1)
    pixels[3, 0, 2, 2] ^= 1
    for changed in (dict(images=pixels), dict(labels=labels)):
        other = dataclasses.replace(ten, **changed)
        parquet_of(made).unlink()
        image_sets.save(other, made)
        for source in (made, parquet_of(made)):
            with pytest.raises(UserError) as error:
                image_sets.read(str(source), digits)
            now = image_sets.fingerprint(other.images, other.labels, ten.class_names)
            assert now[:12] in str(error.value) and ten.fingerprint[:12] in str(error.value)
            assert "remove or renew its distilled.json" in str(error.value) and "\n" not in str(error.value)
    about = made / "distilled.json"
    about.write_text(about.read_text().replace('"digits"', '"other"'))
    assert image_sets.read(str(made), digits).fingerprint == now
    about.unlink()
    assert image_sets.read(str(made), digits).fingerprint == now


@pytest.mark.parametrize("text", ["{", "[" * 99999, "[1]", "3", "\0", '{"fingerprint": NaN'])
def test_a_damaged_distilled_json_is_one_line(digits, made, text):
    (made / "distilled.json").write_text(text)
    with pytest.raises(UserError, match=r"distilled\.json cannot be read .*; mend or remove it\.$"):
        image_sets.read(str(made), digits)


@pytest.mark.parametrize("text", ["{}", '{"fingerprint": 3}', '{"fingerprint": "../"}', '{"fingerprint": null}'])
def test_a_distilled_json_that_states_no_fingerprint_is_no_claim(digits, ten, made, text):
    (made / "distilled.json").write_text(text)
    assert image_sets.read(str(made), digits).fingerprint == ten.fingerprint


@pytest.mark.slow
def test_one_damaged_bit_of_a_saved_set_never_passes(digits, made):
    """Anywhere in the file: it is another set, or no file at all, or the very same images."""
    whole, generator = parquet_of(made).read_bytes(), np.random.default_rng(0)
    wanted = image_sets.read(str(made), digits).fingerprint
    for place in generator.integers(0, 8 * len(whole), 250):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        parquet_of(made).write_bytes(damaged)
        try:
            assert image_sets.read(str(made), digits).fingerprint == wanted, place
        except UserError as error:
            assert "\n" not in str(error)
