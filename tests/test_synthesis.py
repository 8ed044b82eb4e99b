"""Distilled sets made here: DM moves class means together; RDED is its description, step by step."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from rd3_utils import launch
from rd3_utils.data import augmentation, selections, tables
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.learning import students, teachers
from rd3_utils.synthesis import dm
from rd3_utils.synthesis import methods as synthesis
from rd3_utils.synthesis import rded as real_patches
from rd3_utils.synthesis.task import SynthesisTask


@pytest.fixture(scope="module")
def table(digits):
    return tables.real(digits, "train")


def test_distribution_matching_brings_the_class_means_together(digits, table, train, select):
    """For networks it never saw, DM's images embed nearer to the class means than the real images they start from."""
    pixels, _ = dm.dm(SynthesisTask(table, digits, 1, 0, launch.accelerator()), iterations=60, student="convnet3")
    start = select("random:ipc=1,seed=0")

    def embedded(network, images):
        return network.forward_features((images / 255 - digits.image.mean[0]) / digits.image.std[0]).flatten(1)

    def distance(images):
        total = 0
        for seed in range(900, 905):
            network = students.create("convnet3", digits, seed).requires_grad_(False)
            for k in range(10):
                real = embedded(network, train.images[train.labels == k]).mean(0)
                total += float((real - embedded(network, images[start.labels == k]).mean(0)).square().sum())
        return total

    assert distance(pixels) < 0.97 * distance(start.images)


@pytest.mark.parametrize("operation", list(augmentation.DSA_OPERATIONS))
def test_siamese_augmentation_changes_real_and_synthetic_images_of_a_class_alike(digits, train, operation):
    """Images that are equal to begin with embed to equal means whatever is drawn; under other numbers they do not."""
    network = students.create("convnet2", digits, 0).requires_grad_(False)
    x = torch.stack([train.images[train.labels == k][0] for k in range(10)]).float() / 255
    generator = torch.Generator().manual_seed(1)
    drawn = dm.draw_siamese([operation], 10, generator)
    other = dm.draw_siamese([operation], 10, generator)
    real = x.repeat_interleave(3, 0)  # three times the same image of each class
    means = dm.class_means(network, x.requires_grad_(), 10, drawn)
    assert torch.allclose(means, dm.class_means(network, real, 10, drawn), atol=1e-5)
    assert not torch.allclose(means, dm.class_means(network, real, 10, other), atol=1e-2)
    assert torch.autograd.grad(means.square().sum(), x)[0].abs().sum() > 0


def test_distribution_matching_with_dsa_still_brings_class_means_together(digits, table, select):
    plain, about = dm.dm(SynthesisTask(table, digits, 1, 0, launch.accelerator()), iterations=10)
    made, told = dm.dm(SynthesisTask(table, digits, 1, 0, launch.accelerator()), iterations=10, dsa="color_crop_scale")
    assert (about["dsa"], told["dsa"]) == ("none", "color_crop_scale") and not torch.equal(plain, made)
    for wrong, says in (("color_flop", "did you mean 'flip'"), ("flip", "forbids mirror images")):
        with pytest.raises(UserError, match=says):
            dm.dm(SynthesisTask(table, digits, 1, 0, launch.accelerator()), iterations=1, dsa=wrong)


@pytest.mark.parametrize("factor, ipc", [(1, 3), (2, 2)])
def test_rded_keeps_the_patches_its_description_keeps(digits, table, train, factor, ipc):
    """One patch at a time: 12 candidates of a class, 4 crops each, the best crop of each, the best of these, in blocks."""
    made, about = real_patches.rded(
        SynthesisTask(table, digits, ipc, 5, launch.accelerator()), candidates=12, crops=4, factor=factor
    )
    teacher = teachers.load("default", digits)
    mean, std = (torch.tensor(v)[:, None, None] for v in (teacher.mean, teacher.std))
    side = 8 // factor
    for k in (0, 7):
        best = []
        for row in selections.shuffled(table, 5)[k][:12]:
            tried = []
            for patch in real_patches.random_patches(table, np.array([row]), 4, side, 5)[0]:
                canvas = torch.zeros(3, 8, 8)
                first = (8 - side) // 2
                canvas[:, first : first + side, first : first + side] = (patch / 255 - mean) / std
                loss = -torch.log(teacher.network(canvas[None]).softmax(1)[0, k])
                tried.append((float(loss), patch))
            best.append(min(tried, key=lambda pair: pair[0]))
        best = [patch for _, patch in sorted(best, key=lambda pair: pair[0])]
        for t in range(ipc):
            rows = [torch.cat([best[t + ipc * (factor * i + j)] for j in range(factor)], 2) for i in range(factor)]
            assert torch.equal(made[k * ipc + t], torch.cat(rows, 1))
    assert about["teacher"]["top1"] == 0.99 and about["factor"] == factor


def test_random_squares_are_torchvisions(monkeypatch):
    """The same uniform numbers give torchvision's crop: also where no try fits and the central square is taken."""
    for width, height in ((500, 375), (64, 64), (40, 900)):
        for seed in range(50):
            generator = np.random.Generator(np.random.Philox(key=[seed, 1]))

            def uniform(self, low, high, generator=generator):
                return self.fill_(generator.uniform(low, high) if (low, high) == real_patches.CROP_SCALE else 0.0)

            def randint(low, high, size, generator=generator):
                return torch.tensor([generator.integers(low, high)])

            monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
            monkeypatch.setattr(torch, "randint", randint)
            picture = Image.new("RGB", (width, height))
            top, left, h, w = RandomResizedCrop.get_params(picture, real_patches.CROP_SCALE, (1, 1))
            monkeypatch.undo()
            again = np.random.Generator(np.random.Philox(key=[seed, 1]))
            assert h == w and real_patches.random_square(width, height, again) == (left, top, h)


def test_patches_are_cut_from_pictures_of_their_own_size(digits, tmp_path):
    """A 500 x 375 photograph is cropped as it is, before the benchmark's resize and centre crop."""
    photographs = dataclasses.replace(digits, image=dataclasses.replace(digits.image, shorter_side=9))
    files = []
    for k in range(10):
        pixels = np.random.default_rng(k).integers(0, 256, (30 + k, 50, 3), np.uint8)
        (tmp_path / "train" / str(k)).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / str(k) / "a.png")
        files.append(Image.fromarray(pixels))
    few = dataclasses.replace(photographs, data=dataclasses.replace(digits.data, train_images=10))
    patches = real_patches.random_patches(tables.real(few, "train", tmp_path), np.array([3, 8]), 2, 4, 11)
    for i, row in enumerate((3, 8)):
        generator = np.random.Generator(np.random.Philox(key=[11, row]))
        for j in range(2):
            left, top, side = real_patches.random_square(50, 30 + row, generator)
            wanted = resized_crop(files[row], top, left, side, side, (4, 4))
            assert np.array_equal(patches[i, j].permute(1, 2, 0), wanted)


def test_patches_fill_images_block_by_block_also_where_the_factor_does_not_divide():
    patches = torch.arange(9 * 2, dtype=torch.uint8)[:, None, None, None].expand(18, 3, 2, 2).contiguous()
    made = real_patches.assembled(patches, 2, 3, 8)  # cells of 3, 3 and 2 pixels
    wanted = torch.tensor([[0, 2, 4], [6, 8, 10], [12, 14, 16]]).repeat_interleave(3, 0).repeat_interleave(3, 1)[:8, :8]
    assert torch.equal(made[0, 0].long(), wanted) and torch.equal(made[1, 2].long(), wanted + 1)
    one = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)
    enlarged = real_patches.assembled(one.expand(9, 3, 2, 2), 1, 3, 8)[0, :, :3, :3]
    assert torch.equal(enlarged, F.interpolate(one.float(), (3, 3))[0].to(torch.uint8))


def test_rded_from_the_command_line_is_the_same_twice_and_says_how_it_was_made(script, tmp_path, digits):
    options = ["--ipc", "2", "--seed", "3", "--candidates", "20"]
    for name in ("a", "b"):
        done = script("rd3_utils", "synthesize", "rded", *options, "--out", name)
        assert done.code == 0 and f"--distilled {name} --teacher default" in done.out
    a, b = (image_sets.read(str(tmp_path / name), digits) for name in ("a", "b"))
    about = json.loads((tmp_path / "a" / "distilled.json").read_text())
    assert a.fingerprint == b.fingerprint == about["fingerprint"] and a.ipc == 2
    assert (about["method"], about["candidates"], about["crops"], about["factor"]) == ("rded", 20, 5, 1)
    assert about["teacher"]["source"] == "local-dir:embedded/digits-teacher-convnet3"


@pytest.mark.parametrize(
    "options, wanted",
    [
        (["--ipc", "1", "--factor", "9"], "--factor 9 leaves no pixel of 8 x 8 to a patch; use at most 8"),
        (["--ipc", "100", "--factor", "2"], "need 400 candidates per class, 300 are drawn; use --candidates 400"),
        (["--ipc", "200"], "has 126 real images, 200 images of 1 x 1 patches need 200"),
        (["--ipc", "1", "--teacher", "local-dir:nowhere"], "there is no such folder"),
    ],
)
def test_what_rded_cannot_do_is_said_in_one_line(script, options, wanted):
    done = script("rd3_utils", "synthesize", "rded", "--out", "x", *options)
    assert done.code == 2 and wanted in done.err and len(done.err.strip().splitlines()) == 1


def test_another_seed_draws_other_candidates(digits, table):
    same = [
        real_patches.rded(SynthesisTask(table, digits, 1, seed, launch.accelerator()), candidates=5)[0] for seed in (0, 0, 1)
    ]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


def test_an_unknown_method_is_named(digits, tmp_path):
    with pytest.raises(UserError, match="unknown method 'rdedd': did you mean 'rded'"):
        synthesis.synthesize("rdedd", digits, 1, tmp_path / "x")
