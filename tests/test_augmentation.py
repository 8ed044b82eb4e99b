"""MixUp, RandAugment, jitter, lighting, DSA, ZCA: each against its formula written out, or the library that others use."""

import dataclasses
import json
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp, kstest
from test_views import MEAN, STD, noise
from timm.data import auto_augment
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment
from torchvision.transforms import functional as ops

from rd3_utils.data import augmentation, randaugment, views, whitening
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol
from rd3_utils.protocols.knobs import DSA

PLAIN = "views.crop=none", "views.flip=0.0", "views.mix=none", "views.patch_shuffle=1"


def normalised(x):
    return (x.float() - torch.tensor(MEAN)[:, None, None] * 255) / (torch.tensor(STD)[:, None, None] * 255)


# MixUp


def test_mixup_is_its_formula_and_one_weight_serves_a_group(sized):
    images, v = (
        noise(20, 16),
        views.draw(sized(20, 16, *PLAIN, "views.mix=mixup", "views.mix_alpha=0.8", "views.group=8"), 0, 3),
    )
    x = views.apply(images, v, torch.arange(20), MEAN, STD)
    for i in range(20):
        w = float(v.mix_weight[i])
        wanted = w * normalised(images[i]) + (1 - w) * normalised(images[v.mix_partner[i]])
        assert torch.allclose(x[i], wanted, atol=1e-5)
    for group in v.order.split(8):
        assert len(v.mix_weight[group].unique()) == 1
        assert torch.equal(v.mix_partner[group].sort().values, group.sort().values)
    assert torch.equal(v.own_share(torch.arange(20), 16), v.mix_weight)


def test_mixup_weights_follow_the_beta_distribution(sized):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha)."""
    overrides = "views.mix=mixup", "views.mix_alpha=0.8", "views.mix_per=row", "views.group=20000"
    weight = views.draw(sized(20000, 8, *PLAIN[:2], *overrides), 0, 0).mix_weight
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight.var()) == pytest.approx(1 / (4 * 2.6), abs=0.003)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_groups_are_mixed_as_often_as_stated_and_the_others_left_alone(sized, mix):
    """One group in four; boxes of less than two pixels, one in 64 at 16 px, are left alone too."""
    n, rows = 1500, torch.arange(1500)
    v = views.draw(sized(n, 16, *PLAIN[:2], f"views.mix={mix}", "views.mix_probability=0.25", "views.group=3"), 0, 0)
    alone = (v.mix_weight if mix == "mixup" else v.own_share(rows, 16)) == 1
    assert all(len(alone[group].unique()) == 1 for group in v.order.split(3))
    assert float(1 - alone.float().mean()) == pytest.approx(0.25, abs=0.08)
    images = noise(n, 16)
    assert torch.equal(v.mix_partner[alone], rows[alone])
    assert torch.equal(views.apply(images, v, rows, MEAN, STD)[alone], normalised(images)[alone])


# RandAugment


@pytest.mark.parametrize("level", [0, 9, 30])
@pytest.mark.parametrize("size", [32, 224])
def test_every_operation_is_torchvisions(level, size):
    image = noise(1, size)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    space = RandAugment()._augmentation_space(31, (size, size))
    names = {name.lower().replace("_", ""): name for name in space}
    for kind, name in enumerate(randaugment.TORCHVISION_NAMES):
        theirs = names[name.replace("_", "")]
        magnitudes, signed = space[theirs]
        assert signed == randaugment.TORCHVISION[name][0]
        for minus in (0, 1) if signed else (0,):
            value = float(magnitudes[level]) if magnitudes.ndim else 0.0
            wanted = autoaugment._apply_op(picture, theirs, -value if minus else value, InterpolationMode.NEAREST, None)
            ours = randaugment.randaugment_torchvision(image[None], torch.tensor([[(kind * 31 + level) * 2 + minus]]))[0]
            assert np.array_equal(ours.permute(1, 2, 0), np.asarray(wanted)), (name, minus)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_operations_come_before_the_crop_and_in_order(sized, kind):
    """What timm's move in has the colour of the images' mean."""
    images = noise(40, 16)
    knobs = "views.randaugment=2", f"views.randaugment_kind={kind}", "views.mix=none", "views.crop_scale=[0.3, 1]"
    v = views.draw(sized(40, 16, *knobs), 0, 1)
    plain, done = dataclasses.replace(v, operations=None, magnitudes=None), images
    for k in (slice(0, 1), slice(1, 2)):
        if kind == "timm":
            done = randaugment.randaugment_timm(done, v.operations[:, k], v.magnitudes[:, k], MEAN)
        else:
            done = randaugment.randaugment_torchvision(done, v.operations[:, k])
    rows = torch.arange(39, -1, -1)
    ours = views.apply(images, v, rows, MEAN, STD)
    assert torch.equal(ours, views.apply(done, plain, rows, MEAN, STD)) and v.operations.shape == (40, 2)


def test_all_operations_are_drawn_evenly_and_signs_are_fair(sized):
    codes = views.draw(sized(14000, 8, *PLAIN, "views.randaugment=2", "views.randaugment_magnitude=7"), 0, 0).operations
    kind, level, minus = codes // 2 // 31, codes // 2 % 31, codes % 2
    assert bool((level == 7).all()) and bool(((torch.bincount(kind.flatten()) / 28000 - 1 / 14).abs() < 0.005).all())
    signed = torch.tensor([randaugment.TORCHVISION[name][0] for name in randaugment.TORCHVISION_NAMES])[kind]
    assert int(minus[~signed].sum()) == 0 and float(minus[signed].float().mean()) == pytest.approx(0.5, abs=0.01)


# DSA: the formulas of Zhao & Bilen, ICML 2021, pixel by pixel


def bilinear(image, y, x):
    """The image at (y, x) in pixels, zeros outside."""
    total = np.zeros(3)
    for dy in (0, 1):
        for dx in (0, 1):
            r, c = math.floor(y) + dy, math.floor(x) + dx
            weight = (1 - abs(y - r)) * (1 - abs(x - c))
            if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                total += weight * image[:, r, c]
    return total


def warped(image, matrix):
    size = image.shape[1]
    out = np.zeros_like(image)
    for r in range(size):
        for c in range(size):
            place = np.array([(2 * c + 1) / size - 1, (2 * r + 1) / size - 1])  # x, y of the pixel's centre in -1..1
            x, y = ((matrix @ place + 1) * size - 1) / 2
            out[:, r, c] = bilinear(image, y, x)
    return out


def by_hand(name, image, u):
    size = image.shape[1]
    if name == "color":
        image = image + (u[0] - 0.5) * 1.0
        grey = image.mean(0, keepdims=True)
        image = (image - grey) * (u[1] * 2.0) + grey
        return (image - image.mean()) * (u[2] + 0.5) + image.mean()
    if name == "flip":
        return image[:, :, ::-1] if u[0] < 0.5 else image
    if name == "scale":
        return warped(image, np.diag([u[k] * (1.2 - 1 / 1.2) + 1 / 1.2 for k in (0, 1)]))
    if name == "rotate":
        a = (u[0] - 0.5) * 2 * 15 / 180 * np.pi
        return warped(image, np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]))
    out = np.zeros_like(image) if name == "crop" else image.copy()
    if name == "crop":
        border = int(size * 0.125 + 0.5)
        down, right = (math.floor(u[k] * (2 * border + 1)) - border for k in (0, 1))
        for r in range(size):
            for c in range(size):
                if 0 <= r + down < size and 0 <= c + right < size:
                    out[:, r, c] = image[:, r + down, c + right]
        return out
    side = int(size * 0.5 + 0.5)
    top, left = (math.floor(u[k] * (size + 1 - side % 2)) - side // 2 for k in (0, 1))
    for i in range(side):
        for j in range(side):
            out[:, min(max(top + i, 0), size - 1), min(max(left + j, 0), size - 1)] = 0
    return out


@pytest.mark.parametrize("size", [8, 14])
@pytest.mark.parametrize("name", augmentation.DSA_OPERATIONS)
def test_every_dsa_operation_is_its_formula_pixel_by_pixel(name, size):
    generator = torch.Generator().manual_seed(3)
    x, u = torch.randn(12, 3, size, size, generator=generator), torch.rand(12, 3, generator=generator)
    ours = augmentation.dsa(x, torch.full((12,), 1 + list(augmentation.DSA_OPERATIONS).index(name)), u)
    for i in range(12):
        assert np.allclose(ours[i], by_hand(name, x[i].double().numpy(), u[i].double().numpy()), atol=2e-5)


def test_a_group_shares_the_operation_and_every_row_has_its_own_numbers(sized):
    v = views.draw(sized(64, 8, *PLAIN, "views.dsa=color_crop_cutout_flip_scale_rotate", "views.group=16"), 0, 0)
    for group in v.order.split(16):
        assert len(v.dsa[group].unique()) == 1 and len(v.dsa_numbers[group].unique(dim=0)) == 16
    seen = torch.cat([views.draw(sized(64, 8, *PLAIN, "views.dsa=crop_rotate", "views.group=1"), 0, e).dsa for e in range(3)])
    assert set(seen.tolist()) == {1 + list(augmentation.DSA_OPERATIONS).index(name) for name in ("crop", "rotate")}


def test_dsa_operations_are_drawn_evenly_with_three_independent_uniform_numbers(sized):
    v = views.draw(sized(6000, 8, *PLAIN, "views.dsa=color_crop_cutout_flip_scale_rotate", "views.group=1"), 0, 0)
    assert bool(((torch.bincount(v.dsa, minlength=7)[1:] - 1000).abs() < 150).all())
    for numbers in v.dsa_numbers.T:
        assert kstest(numbers.numpy(), "uniform").pvalue > 0.001
    assert np.allclose(np.corrcoef(np.vstack([v.dsa_numbers.numpy().T, v.dsa.numpy()])), np.eye(4), atol=0.06)


def test_dsa_comes_after_mixing_and_normalisation(sized):
    images, v = noise(10, 8), views.draw(sized(10, 8, "views.dsa=color_scale", "views.group=5"), 0, 0)
    x = views.apply(images, dataclasses.replace(v, dsa=None, dsa_numbers=None), torch.arange(10), MEAN, STD)
    assert torch.equal(views.apply(images, v, torch.arange(10), MEAN, STD), augmentation.dsa(x, v.dsa, v.dsa_numbers))


def test_dsa_does_not_mirror_where_the_benchmark_forbids_it(digits):
    def strategy(text):
        return protocol.load("rd3-v1").override([f"views.dsa={text}"]).resolve(digits, "convnet3", 1, 10, "soft").views.dsa

    assert set(DSA) == set(augmentation.DSA_OPERATIONS)
    assert (strategy("color_flip_scale"), strategy("flip"), strategy("none")) == ("color_scale", "none", "none")


@pytest.mark.parametrize("change", [("views.randaugment=2",), ("views.dsa=color_crop",), ("views.mix=mixup",),
                                    ("views.dsa=color", "views.crop_scale=[0.9, 1]", "views.mix=none")])  # fmt: skip
def test_the_pixels_of_a_row_do_not_depend_on_its_batch(sized, change):
    images, v = noise(90, 16), views.draw(sized(90, 16, *change), 0, 0)
    together = views.apply(images, v, torch.arange(90), MEAN, STD)
    alone = torch.cat([views.apply(images, v, torch.tensor([i]), MEAN, STD) for i in range(90)])
    assert torch.equal(together, alone)


# timm's RandAugment


def timms(name, magnitude, picture, fill):
    """What timm's own AugmentOp makes of a picture: one image for every sign and resampling that it may draw."""
    operation = auto_augment.AugmentOp(name, 1.0, magnitude, {"translate_const": 117, "img_mean": fill})
    state, found = random.getstate(), set()
    random.seed(0)
    for _ in range(30):
        found.add(operation(picture).tobytes())
    random.setstate(state)
    return found


@pytest.mark.parametrize("magnitude", [0.0, 3.25, 10.0])
def test_every_timm_operation_is_timms(magnitude):
    image = noise(1, 24)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert randaugment.TIMM_NAMES == auto_augment._RAND_TRANSFORMS
    for kind, name in enumerate(randaugment.TIMM_NAMES):
        ours = set()
        for rest in range(4):  # sign, resampling
            code = torch.tensor([[kind * 8 + 4 + rest]])
            done = randaugment.randaugment_timm(image[None], code, torch.tensor([[magnitude]]), (0.485, 0.456, 0.406))[0]
            ours.add(done.permute(1, 2, 0).numpy().tobytes())
        if (name, magnitude) == ("Posterize", 0.0):
            assert ours == {bytes(3 * 24 * 24)}  # no bits: black, where a new Pillow raises
        else:
            assert ours == timms(name, magnitude, picture, (124, 116, 104)), name


def test_timm_operations_are_drawn_as_timm_draws_them(sized):
    """Any operation evenly, one in two applied, fair signs and resampling, magnitudes of N(m, 1) cut off at 0 and 10."""
    changes = "views.randaugment=2", "views.randaugment_kind=timm", "views.randaugment_magnitude=9"
    v = views.draw(sized(15000, 8, *PLAIN, *changes), 0, 0)
    counts = torch.bincount((v.operations >> 3).flatten(), minlength=15)
    assert len(counts) == 15 and bool(((counts - 2000).abs() < 5 * 2000**0.5).all())
    for bit in (1, 2, 4):
        assert float(((v.operations & bit) > 0).float().mean()) == pytest.approx(0.5, abs=0.015)
    drawn = [v.operations >> 3, v.operations >> 2 & 1, v.operations >> 1 & 1, v.operations & 1, v.magnitudes]
    drawn = np.vstack([number.T.numpy() for number in drawn])  # of the first operation, of the second, and so on
    assert np.allclose(np.corrcoef(drawn), np.eye(10), atol=0.04)  # none says anything about another
    expected = np.clip(np.random.default_rng(0).normal(9, 1, 30000), 0, 10)
    assert ks_2samp(v.magnitudes.flatten().numpy(), expected).pvalue > 0.001
    assert float(v.magnitudes.max()) == 10 and not torch.equal(v.operations[:, 0], v.operations[:, 1])


def test_images_after_timms_randaugment_have_the_distribution_of_timms_own_transform(sized):
    """The share of images left as they are, and the means and spreads of the others."""
    n, image = 3000, torch.arange(3 * 16 * 16, dtype=torch.float32).view(1, 3, 16, 16).mul(255 / 767).to(torch.uint8)
    changes = "views.randaugment=2", "views.randaugment_kind=timm", "views.randaugment_magnitude=6"
    v = views.draw(sized(n, 16, *PLAIN, *changes), 0, 0)
    ours = randaugment.randaugment_timm(image.expand(n, -1, -1, -1), v.operations, v.magnitudes, MEAN).permute(0, 2, 3, 1)
    fill = tuple(round(255 * m) for m in MEAN)
    transform = auto_augment.rand_augment_transform("rand-m6-n2-mstd1.0", {"translate_const": 7, "img_mean": fill})
    states = random.getstate(), np.random.get_state()
    random.seed(1), np.random.seed(1)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    theirs = np.stack([np.asarray(transform(picture)) for _ in range(n)])
    random.setstate(states[0]), np.random.set_state(states[1])
    same = [float((x == np.asarray(picture)).all((1, 2, 3)).mean()) for x in (ours.numpy(), theirs)]
    assert same[0] == pytest.approx(same[1], abs=0.04)
    for summary in (np.mean, np.std):
        values = [np.round(summary(x.astype(np.float64), axis=(1, 2, 3)), 6) for x in (ours.numpy(), theirs)]
        assert ks_2samp(*values).pvalue > 0.001, summary


# Colour jitter and lighting


@pytest.mark.parametrize("size", [8, 33])
def test_the_jitter_is_torchvisions_on_8_bit_tensors(size):
    images = noise(60, size)
    factors = torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) * 1.6
    orders = torch.arange(60) % 6
    ours = augmentation.color_jitter(images.float(), factors, orders)
    adjust = ops.adjust_brightness, ops.adjust_contrast, ops.adjust_saturation
    for i, image in enumerate(images):
        for k in augmentation.ORDERS[int(orders[i])]:
            image = adjust[k](image, float(factors[i, k]))
        assert torch.equal(ours[i], image.float())


def test_the_jitters_numbers_are_uniform_and_every_order_comes_up(sized):
    v = views.draw(sized(6000, 8, *PLAIN, "views.color_jitter=1.5"), 0, 0)
    for k in range(3):
        assert kstest(v.jitter[:, k].numpy(), "uniform", (0, 2.5)).pvalue > 0.001
    independent = np.corrcoef(np.vstack([v.jitter.numpy().T, v.jitter_order.numpy()]))
    assert np.allclose(independent, np.eye(4), atol=0.06)
    counts = torch.bincount(v.jitter_order, minlength=6)
    assert len(counts) == 6 and bool(((counts - 1000).abs() < 150).all())
    narrow = views.draw(sized(6000, 8, *PLAIN, "views.color_jitter=0.4"), 0, 0).jitter
    assert kstest(narrow.flatten().numpy(), "uniform", (0.6, 0.8)).pvalue > 0.001


def test_lighting_has_the_covariance_of_alexnets_noise(sized):
    """alpha ~ N(0, 0.1) on the eigenvectors times eigenvalues: covariance 0.01 V diag(w^2) V^T, in grey levels."""
    shift = views.draw(sized(40000, 8, *PLAIN, "views.lighting=0.1"), 0, 0).lighting
    vectors, values = np.array(augmentation.EIGENVECTORS), np.array(augmentation.EIGENVALUES)
    assert np.allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    wanted = 0.01 * vectors @ np.diag(values**2) @ vectors.T * 255**2
    assert np.allclose(np.cov(shift.numpy().T), wanted, rtol=0.05, atol=0.02) and abs(float(shift.mean())) < 0.1
    along = shift.numpy() / 255 @ vectors[:, 0] / values[0] / 0.1
    assert kstest(along, "norm").pvalue > 0.001
    assert torch.equal(shift * 256, (shift * 256).round())


def test_jitter_and_lighting_come_after_the_crop_and_before_the_mix(sized):
    images = noise(12, 16)
    changes = "views.color_jitter=0.4", "views.lighting=0.1", "views.group=6"
    v = views.draw(sized(12, 16, "views.crop_scale=[0.3, 1]", *changes), 0, 1)
    crops = views.cropped(images, v, torch.arange(12), "cpu")
    done = augmentation.color_jitter(crops, v.jitter, v.jitter_order) + v.lighting[:, :, None, None]
    mixed = torch.where(views.inside(v.mix_box, 16), done[v.mix_partner], done)
    assert v.mix_box.any() and torch.equal(views.apply(images, v, torch.arange(12), MEAN, STD), normalised(mixed))


# ZCA


def test_whitened_data_has_the_covariance_of_the_formula(train, digits):
    """U S/(S + eps) U^T of images in [0, 1]: S -> 1 where S is large; without the normalisation the matrix is symmetric."""
    eps = 0.1
    w = whitening.fit_whitening(train, digits.image.mean, digits.image.std, eps)
    pixels = train.images.double() / 255
    flat = pixels.flatten(1) - pixels.flatten(1).mean(0)
    u, s, _ = np.linalg.svd(np.cov(flat.numpy().T))
    matrix = w.matrix / digits.image.std[0]
    assert np.allclose(matrix, u @ np.diag(1 / np.sqrt(s + eps)) @ u.T, atol=1e-3)
    white = w(((pixels - digits.image.mean[0]) / digits.image.std[0]).float()).flatten(1).double()
    assert np.allclose(np.cov(white.numpy().T), u @ np.diag(s / (s + eps)) @ u.T, atol=1e-3)
    assert torch.allclose(matrix, matrix.T, atol=1e-5)


def test_whitening_is_fitted_once_and_keyed_by_the_data(train, ten, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(whitening, "FITTED", tmp_path)
    first = whitening.fitted(train, MEAN, STD, 0.1)
    fit = whitening.fit_whitening
    monkeypatch.setattr(whitening, "fit_whitening", None)
    assert torch.equal(whitening.fitted(train, MEAN, STD, 0.1).matrix, first.matrix)
    monkeypatch.setattr(whitening, "fit_whitening", fit)
    others = [
        whitening.fitted(ten, MEAN, STD, 0.1),
        whitening.fitted(train, MEAN, STD, 0.2),
        whitening.fitted(train, STD, STD, 0.1),
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4 and all(
        not torch.equal(o.matrix + o.centre, first.matrix + first.centre) for o in others
    )


def test_a_view_is_whitened_between_normalisation_and_dsa(sized, train, digits):
    w = whitening.fit_whitening(train, digits.image.mean, digits.image.std, 0.1)
    v = views.draw(sized(10, 8, *PLAIN, "views.dsa=color_scale"), 0, 0)
    unwhitened = views.apply(train.images, dataclasses.replace(v, dsa=None), torch.arange(10), MEAN, STD)
    ours = views.apply(train.images, v, torch.arange(10), MEAN, STD, whitening=w)
    assert torch.equal(ours, augmentation.dsa(w(unwhitened), v.dsa, v.dsa_numbers))


def test_a_student_learns_and_is_scored_on_whitened_images(script, tmp_path, monkeypatch):
    """Whitening the training images alone would score at chance."""
    monkeypatch.setattr(whitening, "FITTED", tmp_path / "zca")
    done = script("train_student", "--protocol", "hard-label-v1", "--distilled", "random:ipc=10,seed=0", "--set",
                  "views.zca=0.1", "--set", "training.epochs=60")  # fmt: skip
    assert done.code == 0, done.err
    run = json.loads(next(tmp_path.glob("results/**/seed0.json")).read_text())
    assert run["top1"] > 0.4 and run["recipe"]["views"]["zca"] == 0.1


@pytest.mark.parametrize(
    "assignment, wanted",
    [
        ("views.randaugment_magnitude=31", "wanted 0 to 30"),
        ("views.randaugment_magnitude=5", "without views.randaugment"),
        ("views.dsa=color_blur", "wanted none or some of color_crop_cutout_flip_scale_rotate"),
        ("views.zca=-1", "wanted at least 0"),
        ("views.mix=mixed", "unknown value of views.mix in --set 'mixed': did you mean 'mixup'?"),
    ],
)
def test_a_wrong_knob_is_named(assignment, wanted):
    with pytest.raises(UserError) as error:
        protocol.load("rd3-v1").override([assignment]).resolve(benchmarks.load("digits"), "convnet3", 1, 10, "soft")
    assert wanted in str(error.value)


def test_teachers_are_not_asked_about_whitened_images(digits):
    with pytest.raises(UserError, match="views.zca with soft labels"):
        protocol.load("rd3-v1").override(["views.zca=0.1"]).resolve(digits, "convnet3", 1, 10, "soft")


def test_whitening_large_images_is_refused_with_the_size_before_anything_is_read():
    hard = protocol.load("hard-label-v1").override(["views.zca=0.1"])
    with pytest.raises(UserError, match="needs a matrix of 90.6 GB; it is for at most 64 px"):
        hard.resolve(benchmarks.load("imagenette"), "convnet3", 1, 10, "hard")


@pytest.mark.parametrize("size", [8, 32])
def test_a_whitened_image_does_not_depend_on_its_batch(size):
    d = 3 * size**2
    w = whitening.Whitening(torch.randn(d), torch.randn(d, d))
    x = torch.randn(150, 3, size, size)
    assert torch.equal(w(x), torch.cat([w(x[:1]), w(x[1:3]), w(x[3:70]), w(x[70:])]))


def test_plain_arms_have_identity_views_whatever_is_overridden(digits):
    override = ["views.randaugment=2", "views.dsa=color", "views.mix=mixup", "views.color_jitter=0.4", "views.lighting=0.1",
                "views.randaugment_kind=timm", "views.mix_pairing=roll"]  # fmt: skip
    plain = protocol.load("rd3-v1").override(override).resolve(digits, "convnet3", 1, 10, "plain")
    assert plain.views_digest == protocol.load("rd3-v1").resolve(digits, "convnet3", 1, 10, "plain").views_digest
