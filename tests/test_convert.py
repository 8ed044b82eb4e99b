"""convert: a released tensor becomes a set whose pixels, classes and learned labels are those that were released."""

import json

import pytest
import torch

from rd3_utils.data import convert, whitening
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError


def normalised(images, mean, std):
    return (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture
def released(ten, digits, tmp_path):
    """released(images=tensor, labels=tensor) -> images_best.pt; ten normalised digits in the order of classes by default."""

    def make(images=None, labels=None):
        ordered = ten.images[ten.labels.argsort()]
        path = tmp_path / "images_best.pt"
        torch.save(normalised(ordered, digits.image.mean, digits.image.std) if images is None else images, path)
        if labels is not None:
            torch.save(labels, tmp_path / "labels_best.pt")
        return path

    return make


LOGITS = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)) + 6 * torch.eye(10)


def test_a_normalised_release_becomes_the_images_that_it_was_made_of(script, released, digits, ten, tmp_path):
    """With DATM's labels: pixels exactly, logits exactly, classes by order; and distilled.json says where it is from."""
    released(labels=LOGITS.requires_grad_())
    done = script("rd3_utils", "convert", "images_best.pt", "datm-ipc1", "--benchmark", "digits", "--method", "datm")
    assert done.code == 0, done.err
    found = image_sets.read(str(tmp_path / "datm-ipc1"), digits)
    assert torch.equal(found.images, ten.images[ten.labels.argsort()]) and found.labels.tolist() == list(range(10))
    assert torch.equal(found.soft_labels, LOGITS.detach()) and "with learned labels" in done.out
    about = json.loads((tmp_path / "datm-ipc1/distilled.json").read_text())
    assert (about["method"], about["clipped"], about["fingerprint"]) == ("datm", 0.0, found.fingerprint)
    assert about["source"]["repo"] == "images_best.pt" and len(about["source"]["sha256"]) == 64
    again = script("rd3_utils", "convert", "images_best.pt", "datm-ipc1", "--benchmark", "digits")
    assert again.code == 2 and "nothing is overwritten" in again.err


def test_integer_labels_are_the_classes(released, digits, ten, tmp_path):
    found, _ = convert.convert(
        released(normalised(ten.images, digits.image.mean, digits.image.std), ten.labels), tmp_path / "x", digits
    )
    assert torch.equal(found.labels, ten.labels) and found.soft_labels is None and torch.equal(found.images, ten.images)


def test_whitening_is_undone_by_its_inverse(released, digits, ten, train, tmp_path):
    """On digits whitened with the matrix of kornia's formula (eps 0.1) over the train split in [0, 1]."""
    fitted = whitening.fit_whitening(train, (0.0,) * 3, (1.0,) * 3, 0.1)
    ordered = ten.images[ten.labels.argsort()]
    source = released(fitted(ordered / 255))
    with pytest.raises(UserError, match="of the values lie outside"):
        convert.convert(source, tmp_path / "x", digits, convert.Preprocessing(((0.0,) * 3, (1.0,) * 3)))
    found, about = convert.convert(source, tmp_path / "x", digits, convert.Preprocessing(zca=0.1, train=lambda: train))
    assert (found.images.int() - ordered.int()).abs().max() <= 1 and about["undone"] == {"zca": 0.1}


def test_what_8_bits_clip_is_counted_stated_and_limited(released, digits, ten, tmp_path):
    pixels = torch.full((10, 3, 8, 8), 0.5)
    pixels[:, :, 0, :2] = 1.25  # 2 of 64 values
    pixels[:, :, 1, 0] = 1 + 0.4 / 255  # rounds to 255: not clipped
    source = released(normalised(pixels * 255, digits.image.mean, digits.image.std))
    found, about = convert.convert(source, tmp_path / "x", digits)
    assert about["clipped"] == 2 / 64 and about["furthest_outside"] == pytest.approx(0.25, abs=1e-4)
    assert int(found.images.max()) == 255
    with pytest.raises(UserError, match=r"3.1 % of the values lie outside \[0, 1\].*more than the 2.0 % that may"):
        convert.convert(source, tmp_path / "y", digits, most_clipped=0.02)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("images, labels, wanted", [
    (torch.zeros(10, 3, 9, 9), None, "wanted finite floats"),
    (torch.zeros(10, 3, 8, 8, dtype=torch.int64), None, "wanted finite floats"),
    (torch.zeros(9, 3, 8, 8), None, "10 classes of digits cannot share evenly"),
    ({"images": torch.zeros(10, 3, 8, 8)}, None, "holds a dict, wanted one tensor"),
    (None, torch.zeros(10, 7), "wanted integers"),
    (None, LOGITS.detach().roll(1, 0), "are the classes in another order"),
])  # fmt: skip
def test_a_wrong_release_is_named(released, digits, tmp_path, images, labels, wanted):
    with pytest.raises(UserError, match=wanted):
        convert.convert(released(images, labels), tmp_path / "x", digits)


def test_a_file_with_code_in_it_is_refused(digits, tmp_path):
    torch.save(print, tmp_path / "images_best.pt")
    with pytest.raises(UserError, match="cannot be read as a tensor"):
        convert.convert(tmp_path / "images_best.pt", tmp_path / "x", digits)
