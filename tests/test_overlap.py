"""What is found of test images in a set: exact copies, near ones, repeats; beside a plain loop and what people do to images."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from rd3_utils.data import images as image_sets
from rd3_utils.data import overlap, thumbnails


def pictures(count, size=32, seed=0):
    """uint8 [N, 3, S, S]: smooth random images, as photographs are."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1) * 255).byte()


def a_set(pixels, labels=None):
    return image_sets.make("some", pixels, labels if labels is not None else [0] * len(pixels), ("a", "b"), "here")


def each(pixels, change):
    """Every image after `change`, a function of PIL images."""
    done = [np.asarray(change(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in pixels]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).contiguous()


def jpeg(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75)
    return Image.open(io.BytesIO(stream.getvalue()))


def moved(pixels, right, down):
    """Images moved by some pixels, with zeros for what was not there: the padded crops of augmentation."""
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    return padded[..., 4 - down : 36 - down, 4 - right : 36 - right].contiguous()


CHANGES = {
    "JPEG of quality 75": lambda x: each(x, jpeg),
    "a mirror": lambda x: x.flip(-1),
    "noise": lambda x: (x + torch.randint(-9, 10, x.shape)).clamp(0, 255).byte(),
    "brighter": lambda x: (x * 0.8 + 40).byte(),
    "grey": lambda x: x.float().mean(1, keepdim=True).byte().expand_as(x),
    "one pixel aside": lambda x: moved(x, 1, 0),
    "one pixel aside and down, mirrored": lambda x: moved(x, 1, 1).flip(-1),
    "two pixels up": lambda x: moved(x, 0, -2),
    "twice the size and back": lambda x: each(x, lambda p: p.resize((64, 64), Image.BICUBIC).resize((32, 32), Image.BICUBIC)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_test_image_is_known_again(change):
    torch.manual_seed(0)
    test = pictures(300, seed=1)
    mine = torch.cat([pictures(20, seed=2), CHANGES[change](test[40:60].int() if change == "noise" else test[40:60])])
    found = overlap.compare(a_set(mine), a_set(test))
    assert found.test == {} and found.near_test == {20 + i: 40 + i for i in range(20)}


def test_exact_pixels_are_exact_and_one_grey_level_makes_a_near_copy():
    test = pictures(50, seed=1)
    mine = torch.cat([test[7:8], test[7:8], pictures(3, seed=2)])
    mine[1, 0, 3, 3] ^= 1
    found = overlap.compare(a_set(mine), a_set(test))
    assert found.test == {0: 7} and found.near_test == {1: 7} and not found.repeated


def test_repeats_are_found_as_a_plain_loop_finds_them():
    drawn = torch.randint(0, 12, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    pixels, labels = pictures(12)[drawn], [k % 2 for k in range(40)]
    found = overlap.compare(a_set(pixels, labels), a_set(pictures(5, seed=9)))
    first = {row: drawn.index(kind) for row, kind in enumerate(drawn) if drawn.index(kind) != row}
    assert found.repeated == first
    assert found.conflicts == tuple(row for row, other in first.items() if labels[row] != labels[other])


def test_likeness_is_the_correlation_of_grey_levels():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8))
    for side in (8, 16):
        grey = pixels.double().mean(1).numpy()
        grey = grey if side == 16 else grey.reshape(6, 8, 2, 8, 2).mean((2, 4))
        rows = thumbnails.shapes(pixels, side)
        assert np.allclose(rows @ rows.T, np.corrcoef(grey.reshape(6, -1)), atol=1e-5)


def test_likeness_is_the_best_of_all_small_moves_and_the_mirror():
    one, other = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), np.uint8))
    other[:, 5:29, 3:27] = one[:, 4:28, 4:28] // 2
    grey = one.double().mean(0).numpy()[2:30, 2:30]
    tried = [
        np.corrcoef(grey.ravel(), side[y : y + 28, x : x + 28].ravel())[0, 1]
        for side in (other.double().mean(0).numpy(), other.double().mean(0).numpy()[:, ::-1])
        for y in range(5)
        for x in range(5)
    ]
    assert abs(overlap.likeness(one, other) - max(tried)) < 1e-5 and np.argmax(tried) == 3 * 5 + 1


def test_large_images_are_compared_shrunk():
    test = pictures(20, 96, seed=1)
    mine = torch.cat([moved_by(test[3:4], 5), pictures(5, 96, seed=2)])
    assert overlap.compare(a_set(mine), a_set(test)).near_test == {0: 3}


def moved_by(pixels, right):
    return torch.cat([pixels[..., :right] * 0, pixels[..., :-right]], dim=-1)


@pytest.fixture
def keeping(monkeypatch, tmp_path):
    """A folder in which thumbnails of every set are kept, and the list of sets whose pixels were read for them."""
    read = []
    shapes = thumbnails.shapes
    monkeypatch.setattr(thumbnails, "KEPT", tmp_path)
    monkeypatch.setattr(thumbnails, "LARGE", 0)
    monkeypatch.setattr(thumbnails, "shapes", lambda images, *side: read.append(len(images)) or shapes(images, *side))
    return tmp_path, read


def test_thumbnails_are_made_once_for_the_same_pixels(keeping):
    test, other = a_set(pictures(50, seed=1)), a_set(pictures(50, seed=4))
    first = thumbnails.kept(test)
    assert torch.equal(thumbnails.kept(test), first) and keeping[1] == [50]
    assert torch.equal(thumbnails.kept(dataclasses.replace(test, source="elsewhere")), first) and keeping[1] == [50]
    assert not torch.equal(thumbnails.kept(other), first) and keeping[1] == [50, 50]


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-4], lambda data: b"", lambda data: bytes(len(data)),
])  # fmt: skip
def test_damaged_thumbnails_and_those_of_another_set_are_made_anew(keeping, damage):
    test, other = a_set(pictures(50, seed=1)), a_set(pictures(50, seed=4))
    first, foreign = thumbnails.kept(test), thumbnails.kept(other)
    path, others = (keeping[0] / f"{one.fingerprint[:32]}.bin" for one in (test, other))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(thumbnails.kept(test), first) and path.read_bytes() == whole
    path.write_bytes(others.read_bytes())
    assert torch.equal(thumbnails.kept(test), first) and not torch.equal(first, foreign)
    assert keeping[1] == [50] * 4


def test_kept_thumbnails_find_what_fresh_ones_do(keeping):
    test, mine = a_set(pictures(100, seed=1)), a_set(torch.cat([pictures(9, seed=2), pictures(100, seed=1)[50:60].flip(-1)]))
    thumbnails.kept(test)
    kept = overlap.compare(mine, test)
    assert kept.near_test == {9 + i: 50 + i for i in range(10)} == overlap.copies(mine.images, test.images)[1]


def test_flat_images_are_near_copies_of_nothing():
    flat = torch.full((3, 3, 32, 32), 128, dtype=torch.uint8)
    flat[1, :, 0, 0] += 1
    flat[2, :, 0, 0] += 2
    found = overlap.compare(a_set(flat[1:]), a_set(flat[:2]))
    assert found.test == {0: 1} and found.near_test == {}


def test_real_train_images_are_seldom_taken_for_test_images(train, test_set):
    found = overlap.compare(train, test_set)
    assert not found.test and len(found.near_test) == 11  # of 1,297, as the module says


def test_blocks_change_nothing(monkeypatch):
    test, mine = pictures(100, seed=1), torch.cat([pictures(30, seed=2), pictures(100, seed=1)[50:80].flip(-1)])
    whole = overlap.compare(a_set(mine), a_set(test))
    monkeypatch.setattr(overlap, "BLOCK", 7)
    assert dataclasses.asdict(overlap.compare(a_set(mine), a_set(test))) == dataclasses.asdict(whole) and whole.near_test
