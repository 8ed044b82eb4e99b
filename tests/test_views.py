"""Views: the same bits always, the same pixels in any batch, and the pixels of PIL and of CutMix written out."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from rd3_utils.data import views

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)


def noise(n, size, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def unnormalised(x):
    return x * (torch.tensor(STD)[:, None, None] * 255) + torch.tensor(MEAN)[:, None, None] * 255


def pil_view(image, box, flip, size):
    """One crop as torchvision does it on a PIL image: crop, bilinear resize, mirror."""
    top, left, height, width = box.tolist()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy((pixels[:, ::-1] if flip else pixels).copy()).permute(2, 0, 1).float()


@pytest.mark.parametrize("size", [8, 32, 64, 224])
def test_a_resized_crop_is_pils(sized, size):
    n = 24
    images, v = noise(n, size), views.draw(sized(n, size, "views.crop_scale=[0.08, 1]", "views.mix=none",
                                                "views.patch_shuffle=1"), 0, 5)  # fmt: skip
    ours = views.cropped(images, v, torch.arange(n), "cpu")
    pil = torch.stack([pil_view(images[i], v.box[i], v.flip[i], size) for i in range(n)])
    assert (ours - pil).abs().max() <= 1
    assert (ours != pil).float().mean() < 0.001


def test_a_shrinking_crop_is_antialiased_as_pils(sized):
    images, size = noise(6, 96), 96
    box = torch.tensor([[0, 0, 96, 96], [3, 5, 80, 90]] * 3)
    v = dataclasses.replace(views.draw(sized(6, 96, "views.mix=none"), 0, 0), box=box)
    weights = [views.resize_weights(box[:, k], box[:, 2 + k], size, 32, v.patch_order[:, 0]) for k in (0, 1)]
    ours = views.rounded(weights[0][:, None] @ views.rounded(images.float() @ weights[1].mT[:, None]))
    pil = torch.stack([pil_view(images[i], box[i], False, 32) for i in range(6)])
    assert (ours - pil).abs().max() <= 1


@pytest.mark.parametrize("overrides", [(), ("views.crop_scale=[0.3, 1]",), ("views.crop=pad", "views.padding=0.25"),
                                       ("views.mix_per=row",), ("views.patch_shuffle=2",), ("views.group=7",),
                                       ("views.color_jitter=0.4", "views.lighting=0.1", "views.mix_pairing=roll"),
                                       ("views.randaugment=2", "views.randaugment_kind=timm")])  # fmt: skip
def test_the_pixels_of_a_row_do_not_depend_on_its_batch(sized, overrides):
    n, size = 20, 16
    images, v = noise(n, size), views.draw(sized(n, size, *overrides), 3, 7)
    together = views.apply(images, v, torch.arange(n), MEAN, STD)
    alone = torch.cat([views.apply(images, v, torch.tensor([i]), MEAN, STD) for i in range(n)])
    shuffled = torch.randperm(n)
    assert torch.equal(together, alone)
    assert torch.equal(together[shuffled], views.apply(images, v, shuffled, MEAN, STD))


def test_cutmix_is_the_triple_loop(sized):
    n, size = 12, 8
    recipe = sized(n, size, "views.crop_scale=[0.4, 1]")
    images, v = noise(n, size), views.draw(recipe, 0, 2)
    ours = unnormalised(views.apply(images, v, torch.arange(n), MEAN, STD))
    single = [pil_view(images[i], v.box[i], v.flip[i], size) for i in range(n)]
    for i in range(n):
        top, left, bottom, right = v.mix_box[i].tolist()
        own = 0
        for y in range(size):
            for x in range(size):
                inside = top <= y < bottom and left <= x < right
                source = single[int(v.mix_partner[i])] if inside else single[i]
                own += not inside
                assert (ours[i, :, y, x] - source[:, y, x]).abs().max() < 1e-3
        assert float(v.own_share(torch.tensor([i]), size)) == pytest.approx(own / size**2)


def test_the_whole_image_without_a_flip_is_the_image(sized):
    images = noise(5, 32)
    v = views.draw(sized(5, 32, "views.crop=none", "views.flip=0.0", "views.mix=none"), 0, 0)
    assert torch.equal(views.cropped(images, v, torch.arange(5), "cpu"), images.float())


def test_the_short_way_for_whole_images_gives_the_bits_of_the_long_one(sized):
    images = noise(9, 16)
    v = views.draw(sized(9, 16, "views.mix=none"), 0, 1)
    assert bool((v.box == torch.tensor([0, 0, 16, 16])).all()) and v.flip.any() and not v.flip.all()
    strips = torch.zeros(9, 1, dtype=torch.int64)
    weights = views.resize_weights(v.box[:, 1], v.box[:, 3], 16, 16, strips)
    weights = torch.where(v.flip[:, None, None], weights.flip(1), weights)
    long = views.rounded(images.float() @ weights.mT[:, None])
    assert torch.equal(views.cropped(images, v, torch.arange(9), "cpu"), long)


def test_pad_and_crop_is_a_black_border_and_a_window(sized):
    n, size, border = 40, 16, 4
    images, v = (
        noise(n, size),
        views.draw(sized(n, size, "views.crop=pad", "views.padding=0.25", "views.mix=none"), 0, 0),
    )
    padded = torch.nn.functional.pad(images, (border,) * 4).float()
    assert int(v.box[:, :2].min()) == -border and int(v.box[:, :2].max()) == border
    assert len(v.box[:, :2].unique(dim=0)) > 2 * border + 1  # down and right have each a number of their own
    for i, x in enumerate(views.cropped(images, v, torch.arange(n), "cpu")):
        top, left = (v.box[i, :2] + border).tolist()
        window = padded[i, :, top : top + size, left : left + size]
        assert torch.equal(x, window.flip(-1) if v.flip[i] else window)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("crop, tolerance", [("views.crop=none", 0), ("views.crop_scale=[0.3, 1]", 1)])
def test_patch_shuffle_moves_strips_before_the_crop_and_keeps_every_pixel(sized, factor, crop, tolerance):
    n, size, w = 16, 8, 8 // factor
    overrides = f"views.patch_shuffle={factor}", "views.mix=none", "views.flip=0.0", crop
    images, v = noise(n, size), views.draw(sized(n, size, *overrides), 0, 0)
    ours = views.cropped(images, v, torch.arange(n), "cpu")
    changed = 0
    for i in range(n):
        columns = torch.cat([images[i, :, :, w * k : w * k + w] for k in v.patch_order[i, 0]], dim=2)
        rows = torch.cat([columns[:, w * k : w * k + w] for k in v.patch_order[i, 1]], dim=1)
        assert (ours[i] - pil_view(rows, v.box[i], False, size)).abs().max() <= tolerance
        changed += not torch.equal(rows, images[i])
    assert changed > n // 2


def test_partners_are_a_permutation_inside_each_group_and_share_its_box(sized):
    v = views.draw(sized(50, 32, "views.group=16"), 1, 1)
    for group in v.order.split(16):
        boxes = v.mix_box[group].unique(dim=0)
        assert len(boxes) == 1
        if boxes.any():
            assert torch.equal(v.mix_partner[group].sort().values, group.sort().values)


def test_rolled_partners_are_torch_rolls_of_each_group(sized):
    for n, group in ((50, 16), (48, 16), (7, 50), (5, 2)):
        v = views.draw(sized(n, 32, f"views.group={group}", "views.mix=mixup", "views.mix_pairing=roll"), 1, 1)
        for rows in v.order.split(group):
            mixed = v.mix_weight[rows] < 1
            assert torch.equal(v.mix_partner[rows][mixed], rows.roll(1, 0)[mixed])


def test_pairing_by_roll_moves_nothing_but_the_partners(sized):
    one, other = (views.draw(sized(50, 32, f"views.mix_pairing={how}"), 1, 1) for how in ("permutation", "roll"))
    assert torch.equal(one.order, other.order) and torch.equal(one.mix_box, other.mix_box)
    assert not torch.equal(one.mix_partner, other.mix_partner)


def test_every_row_has_a_box_of_its_own_when_mixing_is_per_row(sized):
    v = views.draw(sized(50, 32, "views.mix_per=row"), 1, 1)
    assert len(v.mix_box.unique(dim=0)) > 40


def test_cutmix_keeps_on_average_the_expected_share(sized):
    """Without clipping the mean share of the partner is E[1 - lambda] = 1/2; clipping at the border lowers it."""
    v = views.draw(sized(4000, 32, "views.mix_per=row", "views.group=4000"), 0, 0)
    side = np.sqrt(1 - (np.arange(20000) + 0.5) / 20000)
    centre = (np.arange(200) + 0.5) / 200
    seen = np.mean([np.mean(np.minimum(1, centre + s / 2) - np.maximum(0, centre - s / 2)) ** 2 for s in side[::100]])
    assert float(1 - v.own_share(torch.arange(4000), 32).mean()) == pytest.approx(seen, abs=0.02)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_box_is_the_lineages(sized, alpha):
    """Half a side, rounded down, on each side of the centre: rand_bbox of clovaai/CutMix-PyTorch train.py:279-295."""
    recipe, size = sized(200, 32, "views.mix_per=row", "views.group=200", f"views.mix_alpha={alpha}"), 32
    v, u = views.draw(recipe, 0, 0), views.Stream(0, 0).uniform("mix", 200, 4)
    assert not v.mix_box.any(1).all()  # some boxes are of less than two pixels: nothing is mixed
    for place, row in enumerate(v.order.tolist()):
        cut = int(size * np.sqrt(1.0 - stats.beta.ppf(u[place, 0], alpha, alpha)))
        cy, cx = int(u[place, 1] * size), int(u[place, 2] * size)
        edges = [int(np.clip(c, 0, size)) for c in (cy - cut // 2, cx - cut // 2, cy + cut // 2, cx + cut // 2)]
        assert v.mix_box[row].tolist() == (edges if cut > 1 else [0, 0, 0, 0])
        cut_out = (edges[2] - edges[0]) * (edges[3] - edges[1]) if cut > 1 else 0
        assert float(v.own_share(torch.tensor([row]), size)) == 1 - cut_out / size**2


def test_crops_have_torchvisions_distribution(sized):
    from torchvision.transforms import RandomResizedCrop

    v = views.draw(sized(3000, 64, "views.crop_scale=[0.08, 1]"), 0, 0)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(torch.zeros(3, 64, 64), (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    ).float()
    ours = v.box.float()
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=1.2)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=1.0)
    assert bool(((v.box[:, :2] >= 0) & (v.box[:, :2] + v.box[:, 2:] <= 64)).all())


@pytest.mark.parametrize(
    "scale, ratio",
    [
        ((0.08, 1), (3 / 4, 4 / 3)),
        ((0.3, 0.5), (0.2, 4)),  # of ten tries some fail
        ((0.9, 1), (1.5, 2)),  # all of them: the largest central crop, here a flat one
        ((0.9, 1), (0.3, 0.6)),
        ((0.98, 1), (0.5, 2)),
    ],
)
def test_a_crop_is_what_torchvision_makes_of_the_same_numbers(sized, monkeypatch, scale, ratio):
    """RandomResizedCrop.get_params, try by try, with this epoch's numbers in place of torch's."""
    from torchvision.transforms import RandomResizedCrop

    n, size = 500, 63
    v = views.draw(sized(n, size, f"views.crop_scale={list(scale)}", f"views.crop_ratio={list(ratio)}"), 0, 3)
    numbers, drawn = views.Stream(0, 3).uniform("crop", n, 10, 4).tolist(), []

    def uniform(tensor, low, high):  # the first two numbers of the next try
        drawn.append(numbers[row][len(drawn) // 2][len(drawn) % 2])
        return torch.tensor([float(low) + drawn[-1] * float(high - low)], dtype=torch.float64)

    def randint(low, high, size):  # its others
        places.append(low + int(numbers[row][len(drawn) // 2 - 1][2 + len(places)] * (high - low)))
        return torch.tensor(places[-1:])

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
    monkeypatch.setattr(torch, "randint", randint)
    for row in range(n):
        drawn, places = [], []
        assert v.box[row].tolist() == list(RandomResizedCrop.get_params(torch.zeros(3, size, size), scale, ratio))


def test_views_have_the_same_bits_on_every_machine(sized):
    v = views.draw(sized(100, 32, "views.crop_scale=[0.08, 1]"), 5, 17)
    arrays = [getattr(v, field.name) for field in dataclasses.fields(v)]
    sha = hashlib.sha256(b"".join(array.numpy().tobytes() for array in arrays if array is not None))
    assert sha.hexdigest()[:16] == "2c1f5fb7cac36062"


def test_views_depend_on_seed_and_epoch_and_not_on_what_was_drawn_before(sized):
    recipe = sized(30, 32, "views.crop_scale=[0.08, 1]")
    first = views.draw(recipe, 0, 4)
    views.draw(recipe, 0, 3), torch.rand(5), np.random.rand(5)
    again, other_epoch, other_seed = views.draw(recipe, 0, 4), views.draw(recipe, 0, 5), views.draw(recipe, 1, 4)
    assert torch.equal(first.box, again.box) and torch.equal(first.order, again.order)
    assert not torch.equal(first.box, other_epoch.box) and not torch.equal(first.box, other_seed.box)


def test_one_knob_does_not_shift_the_draws_of_another(sized):
    plain = views.draw(sized(30, 32, "views.crop_scale=[0.08, 1]"), 0, 4)
    unmixed = views.draw(sized(30, 32, "views.crop_scale=[0.08, 1]", "views.mix=none", "views.flip=0.0"), 0, 4)
    assert torch.equal(plain.box, unmixed.box) and torch.equal(plain.order, unmixed.order)


def test_later_knobs_leave_the_draws_of_the_earlier_ones_alone(sized):
    plain = views.draw(sized(30, 32, "views.crop_scale=[0.08, 1]"), 0, 4)
    knobs = "views.color_jitter=0.4", "views.lighting=0.1", "views.randaugment=2", "views.randaugment_kind=timm"
    more = views.draw(sized(30, 32, "views.crop_scale=[0.08, 1]", *knobs), 0, 4)
    for field in dataclasses.fields(plain):
        value = getattr(plain, field.name)
        assert value is None or torch.equal(value, getattr(more, field.name))


@pytest.mark.parametrize("overrides", [(), ("views.color_jitter=0.4", "views.lighting=0.1")])
def test_views_are_exact_under_autocast(sized, overrides):
    images, v = noise(8, 32), views.draw(sized(8, 32, "views.crop_scale=[0.08, 1]", *overrides), 0, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = views.apply(images, v, torch.arange(8), MEAN, STD)
    assert torch.equal(mixed, views.apply(images, v, torch.arange(8), MEAN, STD))


def test_rows_of_resize_weights_sum_to_one_exactly(sized):
    v = views.draw(sized(200, 64, "views.crop_scale=[0.02, 1]"), 0, 0)
    weights = views.resize_weights(v.box[:, 0], v.box[:, 2], 64, 64, v.patch_order[:, 1])
    assert bool((weights.sum(2) == 2**views.WEIGHT_BITS).all()) and bool((weights >= 0).all())
