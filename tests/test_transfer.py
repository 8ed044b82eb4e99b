"""Transfer: features are what the classifier reads, classifiers agree with brute force, and every comparison is a fair one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from conftest import run_script
from making_runs import drawn, made
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from sklearn.datasets import load_sample_images

from rd3_utils import launch
from rd3_utils.data import embedded, tables
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.learning import evaluation, features, students
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.scoring import runs as run_files
from rd3_utils.transfer import classifiers, networks, records
from rd3_utils.transfer import report as transfer_report

TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"
SETTINGS = {"neighbours": 5, "seed": 0, "grid": [1e-3, 1e-2, 1e-1, 1.0], "steps": 1000, "tolerance": 1e-4}
TOML = """
name = "{name}"
title = "{name}, for a test"
description = "Real images."
classes = {classes}
[data]
repo = "local/{name}"
revision = "main"
config = "default"
train = "train"
test = "test"
image_column = "image"
label_column = "label"
train_images = 0
test_images = 0
[image]
size = {size}
shorter_side = 0
mirror = false
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[defaults]
student = "convnet3"
teacher = "none"
teacher_floor = 0.5
distilled = "random:ipc=1,seed=0"
"""


def write_benchmark(folder, name, size, splits):
    """NAME.toml and NAME/ with PNG files of `splits` {split: {class: uint8 arrays [S, S, 3]}} in `folder`."""
    classes = list(splits["train"])
    (folder / f"{name}.toml").write_text(TOML.format(name=name, classes=json.dumps(classes), size=size))
    for split, of in splits.items():
        for label, pictures in of.items():
            (folder / name / split / label).mkdir(parents=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / name / split / label / f"{i:04}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with the benchmark `photos`: crops of 16 px of two colour photographs, left half train, right half test."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    splits = {"train": {}, "test": {}}
    for name, picture in zip(("china", "flower"), load_sample_images().images):
        for split, columns, count in (("train", (0, 304), 30), ("test", (320, 624), 40)):
            corners = zip(generator.integers(0, 410, count), generator.integers(*columns, count))
            splits[split][name] = [picture[y : y + 16, x : x + 16] for y, x in corners]
    write_benchmark(folder, "photos", 16, splits)
    return folder


@pytest.fixture(scope="module")
def trained(photos):
    """The folder of `photos` with two students of distilled and two of random digits, every network kept."""
    what = ("--teacher", "default", "--arms", "distilled-soft,random-soft", "--seeds", "0,1", "--draws", "2", "--set",
            "training.epochs=15")  # fmt: skip
    done = run_script(photos, "train_student", *what, "--keep-weights", "all")
    assert done.code == 0, done.err
    return photos, what


@pytest.fixture(scope="module")
def carried(trained):
    """(folder, what the terminal said, report, {kind: records}) of both distilled students, carried to the photographs."""
    folder, _ = trained
    seeds = [path.parent.relative_to(folder) for path in folder.glob("results/digits/**/distilled-soft/seed*/config.json")]
    done = run_script(folder, "rd3_utils", "transfer", *sorted(seeds), "--to", "photos.toml", "--data-dir", "photos")
    assert (len(seeds), done.code) == (2, 0), done.err
    (report,) = folder.glob("results/transfer/photos/full-*/report.json")
    records = [json.loads(path.read_text()) for path in report.parent.glob("convnet3-*.json")]
    by_kind = {kind: [r for r in records if r["network"]["kind"] == kind] for kind in ("student", "random", "untrained")}
    return folder, done.out, json.loads(report.read_text()), by_kind


@pytest.fixture
def cloud():
    """Features of three overlapping classes: train x [60, 7], y [60], test x [200, 7]."""
    generator = np.random.default_rng(1)
    y = np.arange(60) % 3
    centres = generator.normal(size=(3, 7))
    test = centres[np.arange(200) % 3] + 1.5 * generator.normal(size=(200, 7))
    return (centres[y] + 1.5 * generator.normal(size=(60, 7))).astype(np.float32), y, test.astype(np.float32)


def enlarged(digits, size):
    return dataclasses.replace(digits, image=dataclasses.replace(digits.image, size=size))


@pytest.mark.parametrize(
    "name", ["convnet3", "convnet3_bn", "resnet18", "mobilenetv2_100", "efficientnet_b0", "deit_tiny_patch16_224"]
)
def test_features_are_what_the_classifier_reads_bit_for_bit(digits, name):
    bench = enlarged(digits, 32)
    one, read = features.untrained(students.architecture(name, bench), bench, 0), []
    pixels = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one.network.get_classifier().register_forward_pre_hook(lambda _, x: read.append(x[0]))
    reading = evaluation.Reading(bench.image.mean, bench.image.std)
    evaluation.predictions(one.network, pixels, torch.arange(70), reading, Accelerator(cpu=True))
    found = features.extract(one, pixels, "cpu")
    assert found.shape == (70, one.network.num_features if "mobile" not in name else 1280)
    assert torch.equal(found, torch.cat(read[:1])) and torch.equal(read[0], one.network.forward_head(
        one.network.forward_features((pixels.float() - 255 * torch.tensor(bench.image.mean)[:, None, None])
                                     / (255 * torch.tensor(bench.image.std)[:, None, None])), pre_logits=True))  # fmt: skip


def test_features_do_not_depend_on_the_batch(test_set):
    one = features.load_frozen(str(TEACHER))
    whole, parts = (features.extract(one, test_set.images[:200], "cpu", batch) for batch in (200 * 64, 1))
    assert torch.allclose(whole, parts, rtol=1e-5, atol=1e-5)
    assert torch.equal(whole[64:128], features.extract(one, test_set.images[64:128], "cpu"))


@pytest.mark.parametrize("before, after", [(32, 8), (8, 32), (16, 12)])
def test_images_of_another_size_are_resized_as_torch_resizes_with_antialiasing(before, after):
    pixels = torch.randint(0, 256, (5, 3, before, before), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(pixels.float(), (after, after), mode="bilinear", antialias=True)
    assert (features.resized(pixels, after).float() - wanted).abs().max() <= 1  # PIL rounds twice
    assert features.resized(pixels, before) is pixels


def test_the_nearest_class_centre_is_that_of_brute_force(cloud):
    x, y, test = cloud
    unit, to = x / np.linalg.norm(x, axis=1, keepdims=True), test / np.linalg.norm(test, axis=1, keepdims=True)
    centres = [np.mean([unit[i] for i in range(len(y)) if y[i] == k], axis=0) for k in range(3)]
    wanted = [min(range(3), key=lambda k: ((row - centres[k]) ** 2).sum()) for row in to]
    assert classifiers.nearest_centre(x, y, test, SETTINGS)[0].tolist() == wanted


@pytest.mark.parametrize("k", [1, 4, 5])
def test_the_nearest_neighbours_are_those_of_brute_force_by_cosine(cloud, k):
    x, y, test = cloud
    wanted = []
    for row in test.astype(np.float64):
        cosines = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in x.astype(np.float64)]
        votes = np.bincount(y[np.argsort(cosines)[::-1][:k]], minlength=3)
        wanted.append(int(votes.argmax()))  # of equals the first class
    assert classifiers.nearest_neighbours(x, y, test, {**SETTINGS, "neighbours": k})[0].tolist() == wanted


@pytest.mark.parametrize("c", [1e-2, 1.0])
def test_the_probe_is_the_minimum_that_another_solver_finds(cloud, c):
    x, y, test = cloud
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    a, b = (x - mean) / std, (test - mean) / std

    def loss(flat):
        w, bias = flat[:21].reshape(3, 7), flat[21:]
        logits = a @ w.T + bias
        top = logits.max(1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        return (log_sum - logits[np.arange(60), y]).sum() + (w**2).sum() / (2 * c)

    flat = minimize(loss, np.zeros(24), method="BFGS").x
    wanted = (b @ flat[:21].reshape(3, 7).T + flat[21:]).argmax(1)
    found, about = classifiers.regression(x.astype(np.float64), y, test.astype(np.float64), c, SETTINGS)
    assert about["converged"] and (found == wanted).mean() >= 0.995


def test_the_penalty_is_chosen_without_a_look_at_the_test_split(cloud):
    x, y, test = cloud
    mine, about = classifiers.linear_probe(x, y, test, SETTINGS)
    other, again = classifiers.linear_probe(x, y, test[::-1] * 3, SETTINGS)
    assert about == again and not np.array_equal(mine, other[::-1])
    best = max(tried["held_out_top1"] for tried in about["tried"])
    assert about["c"] == min(tried["c"] for tried in about["tried"] if tried["held_out_top1"] == best)
    assert [tried["c"] for tried in about["tried"]] == SETTINGS["grid"] and about["held_out"] == 12


def test_classes_that_a_plane_separates_are_told_apart_by_all():
    y = np.arange(80) % 4
    x = (5 * np.eye(4)[y] + np.random.default_rng(0).normal(scale=0.1, size=(80, 4))).astype(np.float32)
    top1, _ = classifiers.classify(x[:40], y[:40], x[40:], y[40:], SETTINGS)
    assert top1 == {name: 1.0 for name in classifiers.CLASSIFIERS}


def test_a_probe_that_did_not_converge_says_so(cloud, carried):
    x, y, test = cloud
    _, about = classifiers.linear_probe(x, y, test, {**SETTINGS, "steps": 2, "grid": [1.0, 10.0, 100.0]})
    assert not about["converged"] and not about["tried"][0]["converged"] and about["steps"] == 2
    report = carried[2]
    late = [{**report["groups"][0], "probe_converged": False}]
    assert transfer_report.report_notes(report, late)[0].startswith(
        "Not converged after 1000 steps: the linear probe of convnet3"
    )
    assert not any("converged" in note for note in transfer_report.report_notes(report, report["groups"]))


@pytest.mark.parametrize("counts", [(2, 2), (5, 9, 13), (100, 3)])
def test_one_image_in_five_of_every_class_is_held_out_and_never_all(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    aside = classifiers.held_out_rows(labels, 3)
    assert np.bincount(labels[aside]).tolist() == [max(1, n // 5) for n in counts]
    assert np.array_equal(aside, classifiers.held_out_rows(labels, 3))
    assert counts == (2, 2) or not np.array_equal(aside, classifiers.held_out_rows(labels, 4))


def test_a_trained_network_tells_digits_apart_better_than_its_start(digits, test_set, tmp_path):
    done = run_script(tmp_path, "rd3_utils", "transfer", f"local-dir:{TEACHER}", "--to", "digits", "--train-per-class", "20")
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("results/transfer/digits/random-ipc20-seed0-*/report.json")
    teacher, start = json.loads(path.read_text())["groups"]
    assert (teacher["kind"], start["kind"]) == ("student", "untrained")
    for name in classifiers.CLASSIFIERS:
        assert teacher["top1"][name]["mean"] > 0.95 > start["top1"][name]["mean"]
    assert "own benchmark, not another one" in done.out and "no random-images student" not in done.out
    assert "/" not in json.loads(next(path.parent.glob("*full-hard*.json")).read_text())["network"]["source"]


def test_classes_that_a_network_never_saw_are_told_apart_better_than_by_its_start(tmp_path, monkeypatch):
    """Digits 0 to 4 are learned, 5 to 9 are carried to: other real classes of the same kind."""
    for name, classes in (("low", range(5)), ("high", range(5, 10))):
        splits = {}
        for split in ("train", "test"):
            arrays, labels = tables.sklearn_digits(split)
            splits[split] = {f"d{k}": arrays[labels == k].transpose(0, 2, 3, 1) for k in classes}
        write_benchmark(tmp_path, name, 8, splits)
    monkeypatch.setattr(benchmarks, "BENCHMARKS", tmp_path)
    done = run_script(tmp_path, "train_student", "--benchmark", "low", "--data-dir", "low", "--distilled", "full", "--arms",
                      "full-hard", "--protocol", "teacher-v1", "--set", "training.epochs=10")  # fmt: skip
    assert done.code == 0, done.err
    (folder,) = tmp_path.glob("results/low/**/seed0")
    done = run_script(tmp_path, "rd3_utils", "transfer", folder, "--to", "high", "--data-dir", "high=high")
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("results/transfer/high/full-*/report.json")
    gains = json.loads(path.read_text())["groups"][0]["over_untrained"]
    assert gains["linear_probe"] > 0.02, gains


def test_students_are_set_against_random_and_untrained_ones(carried):
    folder, out, report, records = carried
    assert {kind: len(found) for kind, found in records.items()} == {"student": 2, "random": 4, "untrained": 2}
    student, random, start = report["groups"]
    assert [group["kind"] for group in report["groups"]] == ["student", "random", "untrained"]
    for name in classifiers.CLASSIFIERS:
        values = {kind: [r["top1"][name] for r in found] for kind, found in records.items()}
        assert student["top1"][name]["mean"] == pytest.approx(np.mean(values["student"]))
        assert student["top1"][name]["std"] == pytest.approx(np.std(values["student"], ddof=1))
        assert (student["top1"][name]["n"], random["top1"][name]["draws"]) == (2, [0, 1])
        over = np.mean(values["student"]) - np.mean(values["random"])
        assert student["over_random"][name] == pytest.approx(over) and f"{100 * student['over_random'][name]:+.2f}" in out
        assert random["over_untrained"][name] == pytest.approx(np.mean(values["random"]) - np.mean(values["untrained"]))
        assert f"{100 * student['top1'][name]['mean']:.2f} +- {100 * student['top1'][name]['std']:.2f}" in out
    assert start["over_untrained"] is None and random["over_random"] is None
    assert student["over_random"]["group"] == random["group"] and "resized from 16 to 8 px (PIL bilinear)" in out


def test_a_record_says_where_everything_came_from(carried):
    folder, _, _, records = carried
    record = records["student"][0]
    (path,) = folder.glob(f"results/digits/**/distilled-soft/seed{record['network']['seed']}.json")
    run, network, target = run_files.read(path), record["network"], record["target"]
    assert network["images"]["fingerprint"] == run.images.fingerprint and network["top1"] == run.top1
    assert network["protocol"]["digest"] == run.protocol.digest and network["protocol"]["custom"]
    assert network["sha256"] == features.load_frozen(str(path.with_suffix(""))).sha256
    photos = benchmarks.read(folder / "photos.toml")
    test = image_sets.test_split(photos, folder / "photos")
    assert target["test"]["fingerprint"] == test.fingerprint and record["images_scored"] == len(test) == 80
    assert (target["train"]["images"], target["size"], target["resized_to"], target["own"]) == (60, 16, 8, False)
    assert record["features"]["dimension"] == 128 and "scikit-learn" in record["environment"]["versions"]
    assert str(folder) not in json.dumps(record)
    one = features.load_frozen(str(path.with_suffix("")))
    x, y = (features.extract(one, split.images, "cpu").numpy() for split in (image_sets.of_table(
        tables.real(photos, "train", folder / "photos")), test))  # fmt: skip
    labels = tables.real(photos, "train", folder / "photos").labels
    predicted, _ = classifiers.nearest_centre(x, labels, y, SETTINGS)
    assert record["top1"]["nearest_centre"] == (predicted == test.labels.numpy()).mean()


def test_what_is_measured_is_kept_and_measured_anew_it_is_the_same(carried, tmp_path):
    folder = shutil.copytree(carried[0], tmp_path / "copy")
    again = (
        "transfer",
        *sorted(path.parent.relative_to(folder) for path in folder.glob("results/**/distilled-soft/*/config.json")),
    )
    again = (*again, "--to", "photos.toml", "--data-dir", "photos=photos")
    files = sorted(folder.glob("results/transfer/photos/*/*.json"))
    before = {path: path.read_text() for path in files}
    lost = next(path for path in files if "distilled-soft" in path.name)
    lost.unlink()
    assert run_script(folder, "rd3_utils", *again).code == 0
    for path in files:
        mine, old = json.loads(path.read_text()), json.loads(before[path])
        assert path == lost or path.read_text() == before[path]
        for of in (mine, old):
            of.pop("seconds", None), of.pop("environment", None)
        assert mine == old


def test_the_card_shows_the_transfer_of_its_students_alone(carried, tmp_path):
    folder, report = shutil.copytree(carried[0], tmp_path / "copy"), carried[2]
    what = ("--teacher", "default", "--arms", "distilled-soft,random-soft", "--seeds", "0,1", "--draws", "2", "--set")
    done = run_script(folder, "train_student", *what, "training.epochs=15")
    assert done.code == 0, done.err
    (path,) = folder.glob("results/digits/*/digits-dm-ipc1@*/README.md")
    text = path.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| convnet3 of digits, distilled-soft on digits-dm-ipc1"))
    for name in classifiers.CLASSIFIERS:
        assert f"{100 * report['groups'][0]['top1'][name]['mean']:.2f}" in row
    assert text.count("## Transfer") == 1 and "gain over random" in text and "--keep-weights" not in text
    assert run_script(folder, "train_student", *what, "training.epochs=2").code == 0
    (other,) = set(folder.glob("results/digits/*/digits-dm-ipc1@*/README.md")) - {path}
    assert "## Transfer" not in other.read_text()


# --- which networks are kept, and which are compared


def kept_networks(folder):
    return {
        path.parent.relative_to(folder / "results").as_posix().split("/", 2)[2]
        for path in folder.glob("results/**/config.json")
    }


def test_networks_of_random_images_and_later_seeds_are_kept_only_when_asked_for(tmp_path):
    what = ("--protocol", "hard-label-v1", "--arms", "distilled-hard,random-hard", "--seeds", "0,1", "--draws", "1", "--set",
            "training.epochs=2")  # fmt: skip
    assert run_script(tmp_path, "train_student", *what).code == 0
    assert {name.partition("/")[2] for name in kept_networks(tmp_path)} == {"convnet3/distilled-hard/seed0"}
    before = {path: path.read_bytes() for path in tmp_path.glob("results/**/seed*.json")}
    assert run_script(tmp_path, "train_student", *what, "--keep-weights", "all").code == 0
    assert len(kept_networks(tmp_path)) == 4 and before == {path: path.read_bytes() for path in before}
    for path in before:  # the network is that of the Run
        test = image_sets.test_split(benchmarks.load("digits"))
        network = features.load_frozen(str(path.with_suffix(""))).network
        top1 = evaluation.accuracy(network, test, benchmarks.load("digits"), launch.accelerator()).top1
        assert top1 == run_files.read(path).top1


def test_a_run_that_its_own_training_does_not_repeat_is_refused(tmp_path):
    what = ("--protocol", "hard-label-v1", "--arms", "random-hard", "--draws", "1", "--set", "training.epochs=2")
    assert run_script(tmp_path, "train_student", *what).code == 0
    (path,) = tmp_path.glob("results/**/seed0.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "top1": 0.987}))
    done = run_script(tmp_path, "train_student", *what, "--keep-weights", "all")
    assert done.code == 2 and "has top-1 0.9870" in done.err and done.err.count("\n") == 1 and not kept_networks(tmp_path)


def test_networks_of_random_images_are_never_pushed_though_they_are_kept(tmp_path):
    what = ("--protocol", "hard-label-v1", "--set", "training.epochs=2", "--keep-weights", "all", "--push-to", "some/body")
    for arms in (("--arms", "random-hard"), ("--distilled", "random:ipc=1,seed=0", "--arms", "distilled-hard")):
        done = run_script(tmp_path, "train_student", *what, *arms)
        assert done.code == 2 and "not pushed" in done.err and not list(tmp_path.iterdir())


def about(**changes):
    """What a record says of a student of digits."""
    student = {
        "kind": "student", "benchmark": "digits", "student": "convnet3", "seed": 0, "arm": "distilled-soft", "labels": "soft",
        "protocol": {"name": "rd3-v1", "digest": "abc", "custom": False}, "teachers": ["t"], "views_seed": 0,
        "images": {"name": "mine", "source": "mine", "commit": None, "fingerprint": "f", "ipc": 1, "images": 10},
        "precision": "fp32", "top1": 0.5,
    }  # fmt: skip
    return {**student, **changes}


RANDOM = {"kind": "random", "arm": "random-soft"}


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, None),
        ({"seed": 7}, None),
        ({"kind": "student"}, "no random real images"),
        ({"benchmark": "cifar10"}, "its benchmark is cifar10, wanted digits"),
        ({"student": "resnet18_cifar"}, "its student is resnet18_cifar"),
        ({"precision": "bf16"}, "its precision is bf16"),
        ({"protocol": {"name": "edc-v1", "digest": "x", "custom": False}}, "its protocol is edc-v1 x, wanted rd3-v1 abc"),
        ({"arm": "random-hard"}, "it has hard labels, wanted soft"),
        ({"teachers": ["other"]}, "other teachers"),
        ({"views_seed": 1}, "its views were drawn from seed 1, wanted 0"),
        ({"images": {**about()["images"], "ipc": 10}}, "it has 10 images per class, wanted 1"),
    ],
)
def test_a_random_student_counts_only_under_the_same_recipe(changes, why):
    found = networks.misfit(about(), about(**{**RANDOM, **changes}))
    assert found == why if why is None else why in found


@pytest.mark.parametrize("change", ["test", "labels", "network", "views", "views_seed", "random"])
def test_records_of_runs_that_measured_otherwise_are_not_pooled(change):
    """Seeds of one measure are one group; those of another test split, teachers, network or views are not."""
    changes = {
        "test": {"test": {"fingerprint": "8" * 64}},
        "labels": {"labels": {"teachers_id": "c" * 64}},
        "network": {"network": {"initialisation": 2}},
        "views": {"views": "each", "views_seed": 2},
        "views_seed": {"views_seed": 1},
        "random": {"images": {**drawn(1), "train": {"fingerprint": "6" * 64, "images": 1297}}},
    }[change]
    same = {"arm": "random-soft", "images": drawn(0)} if change == "random" else {}
    about = [networks.network_identity(made(**{**same, **more, "seed": seed})) for seed, more in enumerate(({}, {}, changes))]
    groups = [records.record_group({"network": {**one}}) for one in about]
    assert groups[0] == groups[1] != groups[2]
    old = [{key: value for key, value in one.items() if key != "measured"} for one in about]  # those keep their names
    assert [networks.name_of(one) for one in old] == [networks.name_of(one) for one in about]


def test_an_older_record_of_the_same_network_gets_what_it_did_not_state(carried, tmp_path):
    folder = shutil.copytree(carried[0], tmp_path / "copy")
    whole = {path: path.read_text() for path in folder.glob("results/transfer/photos/*/convnet3-*.json")}
    for path, text in whole.items():
        record = json.loads(text)
        record["network"].pop("measured", None)
        path.write_text(json.dumps(record, indent=1) + "\n")
    seeds = sorted(path.parent.relative_to(folder) for path in folder.glob("results/**/distilled-soft/*/config.json"))
    assert run_script(folder, "rd3_utils", "transfer", *seeds, "--to", "photos.toml", "--data-dir", "photos=photos").code == 0
    assert {path: json.loads(path.read_text()) for path in whole} == {path: json.loads(text) for path, text in whole.items()}


def test_random_images_have_hard_labels_where_the_set_brought_its_own():
    learned = about(labels="learned")
    assert networks.misfit(learned, about(kind="random", arm="random-hard", labels="hard", teachers=[])) is None
    assert "wanted hard" in networks.misfit(learned, about(**RANDOM))


# --- bad input: one clear line, nothing written


def test_two_networks_of_one_run_are_not_taken_for_two_students(carried, tmp_path):
    (mine,), other = carried[0].glob("results/digits/**/distilled-soft/seed0/config.json"), tmp_path / "seed0"
    shutil.copytree(mine.parent, other)
    shutil.copy(mine.parent.with_suffix(".json"), tmp_path)
    assert len(networks.entries([str(mine.parent), str(other)])) == 7  # one, four random ones, two untrained
    run = json.loads((tmp_path / "seed0.json").read_text())
    run.pop("weights")  # a Run of older days, which does not state them
    (tmp_path / "seed0.json").write_text(json.dumps(run))
    weights = load_file(other / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, other / "model.safetensors")
    with pytest.raises(UserError, match="two networks of one recipe"):
        networks.entries([str(mine.parent), str(other)])


def test_a_random_student_is_compared_with_a_student_of_other_images_only(carried):
    random = [str(path.parent) for path in sorted(carried[0].glob("results/digits/**/random-soft/seed0/config.json"))]
    assert [one.about["kind"] for one in networks.entries(random[:1])] == ["random", "untrained"]
    with pytest.raises(UserError, match="every STUDENT given is a random-images one"):
        networks.entries(random[:1], random[1:])


@pytest.fixture
def broken(tmp_path):
    """broken(change) -> a copy of the embedded teacher whose files `change(folder)` changed."""

    def make(change):
        folder = shutil.copytree(TEACHER, tmp_path / "network")
        change(folder)
        return folder

    return make


def edited(name, edit):
    """A change of a JSON file by `edit(data)`."""

    def change(folder):
        data = json.loads((folder / name).read_text())
        edit(data)
        (folder / name).write_text(json.dumps(data))

    return change


def other_network(name, input_size=(1, 8, 8), **arguments):
    """A change to another network, as timm saves it."""

    def change(folder):
        network = timm.create_model(name, num_classes=10, **arguments)
        mean = (0.5,) * input_size[0]
        about = {"input_size": input_size, "mean": mean, "std": mean, "crop_pct": 1.0, "interpolation": "bilinear"}
        timm.models.save_for_hf(network, folder, safe_serialization=True, data_config=about)

    return change


def without_body(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "classifier" in key}, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "run.json").unlink(), "has no Run (run.json or network.json)"),
        (lambda folder: (folder / "run.json").write_text("{}"), "no whole Run of this project"),
        (without_body, "cannot be loaded"),
        (other_network("convnet3", in_chans=1, img_size=8), "1x8x8"),
        (other_network("mobilenetv2_100", (3, 8, 16)), "3x8x16"),
        (edited("run.json", lambda r: r.update(student="resnet18_cifar")), "speaks of a resnet18_cifar"),
        (edited("run.json", lambda r: r.update(benchmark="cifar10")), "32 px"),
        (edited("run.json", lambda r: r.update(benchmark="../../etc")), "benchmark is '../../etc', wanted the name"),
        (edited("run.json", lambda r: r.update(top1=float("nan"))), "no whole Run of this project"),
        (edited("run.json", lambda r: r.update(seed=-1)), "no whole Run of this project"),
        (edited("run.json", lambda r: r["images"].update(name="a\x1b[2J")), "no whole Run of this project"),
        (edited("run.json", lambda r: r.pop("environment")), "no whole Run of this project"),
    ],
)
def test_a_folder_that_is_no_student_is_refused_in_one_line(broken, tmp_path, change, words):
    folder = broken(change)
    done = run_script(tmp_path, "rd3_utils", "transfer", folder, "--to", "digits")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere/seed0",), "there is no such folder"),
        ((TEACHER, "--to", "digit"), "did you mean 'digits'?"),
        ((TEACHER, "--train-per-class", "1"), "at least 2"),
        ((TEACHER, "--train-per-class", "1000"), "use --train-per-class 126"),
        ((TEACHER, "--neighbours", "2000"), "only 1297 train images"),
        ((TEACHER, "--to", "nothing.toml"), "cannot read"),
        ((TEACHER, "--data-dir", "cifar10=x"), "none of the benchmarks"),
        ((TEACHER, "--to", "digits,cifar10", "--data-dir", "x"), "write NAME=DIR"),
        ((TEACHER, "--data-dir", "nowhere"), "no folder or file 'nowhere'"),
        ((TEACHER, "--against", TEACHER), "no random real images"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path, arguments, words):
    to = () if "--to" in arguments else ("--to", "digits")
    done = run_script(tmp_path, "rd3_utils", "transfer", arguments[0], *to, *arguments[1:])
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "results").exists()


def test_a_class_with_one_train_image_is_named(photos, tmp_path):
    shutil.copytree(photos / "photos", tmp_path / "photos")
    shutil.copy(photos / "photos.toml", tmp_path)
    for path in sorted((tmp_path / "photos/train/flower").iterdir())[1:]:
        path.unlink()
    done = run_script(tmp_path, "rd3_utils", "transfer", TEACHER, "--to", "photos.toml", "--data-dir", "photos")
    assert done.code == 2 and "class 'flower' has 1 train images" in done.err and done.err.count("\n") == 1


def test_the_name_of_a_record_stays_in_its_folder_whatever_a_run_says():
    images = {**about()["images"], "name": "../../" + "x" * 400}
    name = networks.name_of(about(images=images))
    assert "/" not in name and len(name) < 200 and name != networks.name_of(about())
    assert networks.name_of(about(top1=0.1)) == networks.name_of(about())


def test_a_network_whose_features_say_nothing_is_refused(digits, test_set):
    one = features.untrained("convnet3", digits, 0)
    for parameter in one.network.parameters():
        parameter.zero_()
    with pytest.raises(UserError, match="the same for all 500 images"):
        features.extract(one, test_set.images, "cpu")
    next(one.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not all finite"):
        features.extract(one, test_set.images, "cpu")
