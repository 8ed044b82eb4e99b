"""SRe2L and CDA: the objective is its definition, a step torchvision's crop and Adam's move; images become their class."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as pictures

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables, views
from rd3_utils.errors import UserError
from rd3_utils.learning import students, teachers, training
from rd3_utils.synthesis import rded as real_patches
from rd3_utils.synthesis import recovery
from rd3_utils.synthesis.task import SynthesisTask


@pytest.fixture(scope="module")
def table(digits):
    return tables.real(digits, "train")


@pytest.fixture(scope="module")
def teacher(digits, train, tmp_path_factory):
    """A folder with a small network with batch norm that knows the digits."""
    network = students.create("convnet2_bn", digits, 0).train()
    x = normalised(digits, train.images)
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for rows in torch.randint(len(x), (120, 64), generator=torch.Generator().manual_seed(0)):
        loss = F.cross_entropy(network(x[rows]), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("teacher") / "convnet2_bn"
    students.save(network, folder, digits)
    return str(folder)


def normalised(benchmark, images):
    mean, std = (torch.tensor(v)[:, None, None] for v in (benchmark.image.mean, benchmark.image.std))
    return (images / 255 - mean) / std


def recovered(method, digits, table, teacher, ipc=1, seed=0, **settings):
    settings = {"iterations": 40, **settings}
    return getattr(recovery, method)(SynthesisTask(table, digits, ipc, seed, launch.accelerator()), teacher, **settings)


def test_the_loss_is_brute_force_over_recorded_activations(digits, teacher):
    network = teachers.load(teacher, digits).network
    x, labels = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 9, 3, 3, 1, 5, 2])
    wanted = 0
    for place, weight in ((1, 10), (5, 1)):  # convolution, batch norm, ReLU, pooling; twice
        seen = network.features[:place](x).double().numpy()
        layer = network.features[place]
        means = [seen[:, c].mean() - float(layer.running_mean[c]) for c in range(128)]
        variances = [((seen[:, c] - seen[:, c].mean()) ** 2).mean() - float(layer.running_var[c]) for c in range(128)]
        wanted += weight * (math.sqrt(sum(m * m for m in means)) + math.sqrt(sum(v * v for v in variances)))
    probabilities = network(x).double().softmax(1)
    cross_entropy, batch_norm = recovery.TeacherLoss(network)(x, labels)
    assert float(batch_norm) == pytest.approx(wanted, rel=1e-5)
    assert float(cross_entropy) == pytest.approx(-float(probabilities[range(7), labels].log().mean()), rel=1e-5)


@pytest.mark.parametrize("layer, shape", [(nn.BatchNorm1d(5), (6, 5)), (nn.BatchNorm3d(5), (6, 5, 2, 3, 4))])
def test_real_statistics_are_at_distance_zero_for_layers_of_any_dimension(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    columns = x.transpose(0, 1).flatten(1)
    layer.running_mean, layer.running_var = columns.mean(1), columns.var(1, correction=0)
    assert float(recovery.distance(layer, x)) < 1e-4
    layer.running_mean = layer.running_mean + 2
    assert float(recovery.distance(layer, x)) == pytest.approx(2 * math.sqrt(5), rel=1e-4)


def test_a_step_sees_torchvisions_crop_flip_and_roll_and_so_do_its_gradients():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 32, 32, generator=generator).requires_grad_()
    weight = torch.randn(4, 3, 32, 32, generator=generator)
    for box, flip, roll in (([3, 7, 9, 20], True, [2, 4]), ([0, 0, 32, 32], False, [0, 3]), ([20, 1, 12, 9], False, [-4, 1])):
        wanted = pictures.resized_crop(x, *box, [32, 32])
        wanted = torch.roll(pictures.hflip(wanted) if flip else wanted, roll, (2, 3))
        found = recovery.augmented(x, box, flip, roll)
        assert torch.allclose(found, wanted, atol=2e-4)  # weights there are of 16 bits
        gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted)]
        assert torch.allclose(*gradients, atol=1e-3)


@pytest.mark.parametrize(
    "curriculum, wanted",
    [
        ("step", {0: 1, 499: 1, 500: 0.08, 999: 0.08}),
        ("linear", {0: 1, 125: 0.77, 250: 0.54, 500: 0.08, 999: 0.08}),
        (
            "cosine",
            {0: 1, 125: 0.08 + 0.46 * (1 + math.sqrt(0.5)), 250: 0.54, 375: 0.08 + 0.46 * (1 - math.sqrt(0.5)), 500: 0.08},
        ),
    ],
)
def test_the_curriculum_is_its_closed_form(curriculum, wanted):
    """Half of 1000 iterations from 1 to 0.08; a quarter, half and three quarters of the way by hand."""
    recipe = dataclasses.replace(recovery.CDA[32], curriculum=curriculum, milestone=0.5)
    assert {i: recovery.smallest_crop(recipe, i) for i in wanted} == pytest.approx(wanted)
    assert {recovery.smallest_crop(recovery.SRE2L[224], i) for i in range(4000)} == {0.08}


def test_crops_stay_above_the_curriculum_and_shrink():
    recipe = recovery.CDA[32]
    draws = recovery.draws(recipe, 32, views.Stream(0, "a test"))
    areas = np.array([height * width / 32**2 for (_, _, height, width), _, _ in draws])
    least = np.array([recovery.smallest_crop(recipe, i) for i in range(recipe.iterations)])
    assert (areas > least - 0.05).all()  # sides are whole pixels
    assert areas[:100].mean() > 0.95 and abs(areas[-100:].mean() - 0.52) < 0.1  # as uniform from 1, and from 0.08
    assert areas[-300:].min() < 0.15
    assert abs(np.mean([flip for _, flip, _ in draws]) - 0.5) < 0.06
    for axis in (0, 1):
        counts = np.bincount([roll[axis] for _, _, roll in draws])
        assert len(counts) == 5 and scipy.stats.chisquare(counts).pvalue > 1e-3  # 0 to 4 pixels, both ends included
    whole = recovery.draws(recovery.SRE2L[32], 32, views.Stream(0, "a test"))
    assert all(box == [0, 0, 32, 32] and not flip for box, flip, _ in whole)


def test_a_first_step_is_adams_and_stays_a_picture(digits, teacher):
    """Adam's first step is the learning rate times the gradient over its size (plus 1e-8); then pixels are clipped."""
    loss = recovery.TeacherLoss(teachers.load(teacher, digits).network)
    recipe = dataclasses.replace(recovery.SRE2L[32], iterations=1)
    x, labels = recovery.noise(10, 8, views.Stream(0, "a test")), torch.arange(10)
    leaf = x.clone().requires_grad_()
    cross_entropy, batch_norm = loss(leaf.roll((1, 0), (2, 3)), labels)
    (gradient,) = torch.autograd.grad(cross_entropy + 0.01 * batch_norm, leaf)
    limits = torch.full((3, 1, 1), -0.8), torch.full((3, 1, 1), 1.9)
    moved = recovery.optimised(x.clone(), labels, loss, recipe, [([0, 0, 8, 8], False, [1, 0])], limits, Counter())
    wanted = (x - 0.25 * gradient / (gradient.abs() + 1e-8)).clamp(-0.8, 1.9)
    assert torch.allclose(moved, wanted, atol=1e-4)


def test_steps_are_those_of_torchs_adam_under_its_cosine(digits, teacher):
    loss = recovery.TeacherLoss(teachers.load(teacher, digits).network)
    recipe = dataclasses.replace(recovery.SRE2L[32], iterations=4)
    x, labels = recovery.noise(10, 8, views.Stream(0, "a test")), torch.arange(10)
    leaf = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], recipe.learning_rate, betas=(0.5, 0.9), eps=1e-8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for _ in range(4):
        cross_entropy, batch_norm = loss(leaf, labels)
        optimizer.zero_grad()
        (cross_entropy + recipe.bn_weight * batch_norm).backward()
        optimizer.step(), schedule.step()
    limits = torch.full((3, 1, 1), -100.0), torch.full((3, 1, 1), 100.0)
    moved = recovery.optimised(x.clone(), labels, loss, recipe, [([0, 0, 8, 8], False, [0, 0])] * 4, limits, Counter())
    assert torch.allclose(moved, leaf.detach(), atol=1e-4) and not torch.allclose(moved, x, atol=0.1)


def test_batch_norms_that_an_image_does_not_reach_in_eval_mode_do_not_count(digits, teacher):
    """Auxiliary heads, as GoogLeNet has."""
    network = teachers.load(teacher, digits).network
    x, labels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(5)
    wanted = recovery.TeacherLoss(network)(x, labels)
    network.head = nn.BatchNorm2d(3)
    assert recovery.TeacherLoss(network)(x, labels) == wanted


class Counter:
    def update(self):
        pass


def test_the_learning_rate_is_torchs_cosine():
    recipe = dataclasses.replace(recovery.SRE2L[32], iterations=37)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.iterations)
    for i in range(recipe.iterations):
        assert recovery.annealed_rate(recipe, i) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_noise_is_standard_normal():
    x = recovery.noise(10, 32, views.Stream(0, "a test"))
    assert x.dtype == torch.float32 and scipy.stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("method, times, settings", [("sre2l", 5, {}), ("cda", 2, {"min_crop": 0.75, "bn_weight": 0.1})])
def test_recovered_images_become_their_class_and_match_the_teachers_statistics(digits, table, teacher, method, times, settings):
    """What is saved, 8-bit images in the order of labels, against the noise they start from; the teacher stays as it was."""
    network = teachers.load(teacher, digits).network
    pixels, about = recovered(method, digits, table, teacher, ipc=2, iterations=100, **settings)
    labels = torch.arange(10).repeat_interleave(2)
    assert pixels.shape == (20, 3, 8, 8) and pixels.dtype == torch.uint8
    loss = recovery.TeacherLoss(network)
    for t in range(2):
        start = recovery.noise(10, 8, views.Stream(0, f"recovery {t} 0"))
        with torch.no_grad():
            before, after = loss(start, torch.arange(10)), loss(normalised(digits, pixels[t::2]), torch.arange(10))
        assert after[0] < 0.2 < 2 < before[0]
        assert after[1] < before[1] / times
    assert (network(normalised(digits, pixels)).argmax(1) == labels).float().mean() >= 0.95
    assert about["teacher"]["sha256"] == teachers.weights_sha256(teachers.load(teacher, digits).network)


def test_only_images_learn(digits, table, teacher, monkeypatch):
    """Parameters, running statistics and their counter are the same after as before, and no parameter gets a gradient."""
    loaded = teachers.load(teacher, digits)
    monkeypatch.setattr(teachers, "load", lambda *_: loaded)
    recovered("cda", digits, table, teacher, iterations=3)
    assert teachers.weights_sha256(loaded.network) == loaded.sha256
    assert all(p.grad is None for p in loaded.network.parameters())


def test_a_seed_repeats_its_images_and_a_larger_ipc_contains_a_smaller_one(digits, table, teacher):
    one, again, other, two = (
        recovered("cda", digits, table, teacher, ipc, seed, iterations=5)[0] for ipc, seed in ((1, 3), (1, 3), (1, 4), (2, 3))
    )
    assert torch.equal(one, again) and torch.equal(one, two[::2])
    assert not torch.equal(one, other) and not torch.equal(two[::2], two[1::2])


def test_images_start_from_noise_real_images_or_rded(digits, table, teacher, select):
    """Images that hardly move are what they started from."""
    still = {"iterations": 1, "learning_rate": 1e-9}
    real, _ = recovered("sre2l", digits, table, teacher, 3, 5, init="real", batch=4, **still)
    assert torch.equal(real, select("random:ipc=3,seed=5").images)
    patches, _ = recovered("sre2l", digits, table, teacher, 1, 5, init="rded", **still)
    assert torch.equal(patches, real_patches.rded(SynthesisTask(table, digits, 1, 5, launch.accelerator()), teacher)[0])
    noise, _ = recovered("sre2l", digits, table, teacher, 1, 5, **still)
    black = -digits.image.mean[0] / digits.image.std[0]
    wanted = recovery.noise(10, 8, views.Stream(5, "recovery 0 0")).clamp(black, black + 1 / digits.image.std[0])
    assert torch.allclose(normalised(digits, noise), wanted, atol=0.6 / 255 / digits.image.std[0])


def test_a_recipe_follows_the_size_of_the_images(digits):
    def at(size, recipes=recovery.SRE2L, mirror=True, **changes):
        image = dataclasses.replace(digits.image, size=size, mirror=mirror)
        return recovery.resolved_recipe(recipes, dataclasses.replace(digits, image=image), changes)

    assert [at(size) for size in (32, 64, 224, 256)] == [recovery.SRE2L[s] for s in (32, 64, 224, 224)]
    assert (at(8).jitter, at(16).jitter, at(48).jitter) == ((0, 1), (0, 2), (-4, 4))
    assert (at(32, recovery.CDA).flip, at(32, recovery.CDA, mirror=False).flip) == (0.5, 0)
    assert at(32, jitter=2, bn_weight=0.0, iterations=None) == dataclasses.replace(at(32), jitter=(0, 2), bn_weight=0)


def test_sre2l_and_cda_from_the_command_line_say_how_they_were_made(script, tmp_path, digits, teacher):
    options = ["--ipc", "1", "--seed", "3", "--iterations", "4", "--teacher", teacher]
    for method, more in (("sre2l", []), ("cda", ["--curriculum", "linear", "--milestone", "0.5", "--bn-weight", "0.1"])):
        done = script("rd3_utils", "synthesize", method, *options, *more, "--out", method)
        assert done.code == 0 and f"--distilled {method} --teacher {teacher}" in done.out
        made = image_sets.read(str(tmp_path / method), digits)
        about = json.loads((tmp_path / method / "distilled.json").read_text())
        assert made.fingerprint == about["fingerprint"] and made.labels.tolist() == list(range(10))
        assert (about["method"], about["iterations"], about["seed"], about["device"]) == (method, 4, 3, "cpu")
        assert about["teacher"]["architecture"] == "convnet2_bn" and about["seconds"] > 0
        stated = about["curriculum"], about["milestone"], about["bn_weight"], about["min_crop"], about["jitter"]
        assert stated == (("linear", 0.5, 0.1, 0.08, [0, 1]) if more else ("step", 0.0, 0.01, 1.0, [0, 1]))


@pytest.mark.parametrize(
    "options, wanted",
    [
        ([], "sre2l matches batch-norm statistics; local-dir:embedded/digits-teacher-convnet3 (convnet3) has none; use a"),
        (["--bn-weight", "-1"], "--bn-weight is -1.0, wanted at least 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan, wanted above 0"),
        (["--min-crop", "0"], "--min-crop is 0.0, wanted a share of the area above 0"),
        (["--jitter", "8"], "--jitter is 8, wanted pixels from 0 to 7"),
        (["--jitter", "-1"], "--jitter is -1, wanted pixels from 0 to 7"),
    ],
)
def test_what_cannot_be_recovered_is_said_in_one_line(script, options, wanted):
    done = script("rd3_utils", "synthesize", "sre2l", "--ipc", "1", "--out", "x", *options)
    assert done.code == 2 and wanted in done.err and len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({"milestone": 1.5}, "--milestone is 1.5, wanted a share of the iterations"),
        ({"curriculum": "cosin"}, "unknown curriculum 'cosin': did you mean 'cosine'"),
        ({"init": "reel"}, "unknown init 'reel': did you mean 'real'"),
        ({"iterations": 0}, "--iterations is 0, wanted at least 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(digits, table, settings, wanted):
    with pytest.raises(UserError, match=wanted):
        recovered("cda", digits, table, "default", **settings)


def test_images_that_are_no_numbers_are_not_made(digits, table, teacher):
    """Rounded to eight bits they would be black squares; a step along an infinite gradient makes them."""
    with pytest.raises(training.Diverged, match="sre2l: the images are no finite numbers"):
        recovered("sre2l", digits, table, teacher, iterations=2, bn_weight=1e39)
