"""The two scripts from the command line: what they write, what they keep, and one clear line for every wrong input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
from conftest import PROJECT
from PIL import Image
from torchvision.transforms import v2

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import tables
from rd3_utils.learning import evaluation
from rd3_utils.protocols import benchmark as benchmarks

SHORT = "--set", "training.epochs=3"


def runs(tmp_path, pattern="results/**/seed*.json"):
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob(pattern))]


def test_the_main_job_without_arguments(script, tmp_path):
    first = script("generate_soft_labels", *SHORT)
    assert first.code == 0 and "top-1 99.00 % on digits" in first.out
    done = script("train_student", *SHORT)
    assert done.code == 0
    (run,) = runs(tmp_path)
    assert (run["schema"], run["arm"], run["student"], run["images_scored"]) == (2, "distilled-soft", "convnet3", 500)
    assert 0 <= run["top1"] <= run["top5"] <= 1 and len(run["history"]) == 3
    assert run["protocol"]["overrides"] == {"training.epochs": 3} and run["protocol"]["knobs"]["training"]["epochs"] == 400
    assert run["teachers"][0]["top1"] == 0.99 and run["images"]["source"] == "digits-dm-ipc1"
    card = next(tmp_path.glob("results/digits/rd3-v1-*/*/README.md")).read_text()
    assert "custom, based on rd3-v1" in card


def test_the_kept_weights_score_what_the_run_says(script, tmp_path, digits, test_set):
    script("train_student", "--arms", "distilled-hard", "--protocol", "hard-label-v1", "--set", "training.epochs=60")
    (run,) = runs(tmp_path)
    (folder,) = tmp_path.glob("results/**/distilled-hard/seed0")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert evaluation.accuracy(network, test_set, digits, launch.accelerator()).top1 == run["top1"] > 0.3


def test_the_same_command_gives_the_same_bits_and_then_keeps_them(script, tmp_path):
    command = "train_student", "--arms", "distilled-hard", *SHORT, "--seeds", "0,1"
    script(*command, "--out", "a")
    script(*command, "--out", "b")
    a, b = runs(tmp_path, "a/**/seed*.json"), runs(tmp_path, "b/**/seed*.json")
    assert [r["history"] for r in a] == [r["history"] for r in b] and a[0]["history"] != a[1]["history"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("a/**/seed*.json")}
    script(*command, "--out", "a")
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("a/**/seed*.json")}
    assert [p.name for p in tmp_path.glob("a/**/distilled-hard/*") if p.is_dir()] == ["seed0"]  # weights: first seed only


def test_one_store_serves_every_batch_size(script, tmp_path):
    """The labels of batch 50 train at 25 as well; published stores raise an error there (VILA-Lab/SRe2L utils_fkd.py:126)."""
    what = "--distilled", "digits-dm-ipc10", *SHORT
    script("generate_soft_labels", *what)
    assert script("train_student", *what).code == 0
    assert script("train_student", *what, "--set", "training.batch_size=25").code == 0
    assert len(list(tmp_path.glob("soft_labels/**/index.json"))) == 1
    assert {r["recipe"]["training"]["batch_size"]: r["recipe"]["steps"] for r in runs(tmp_path)} == {50: 6, 25: 12}


def test_the_lrs_and_ars_arms_make_their_labels_and_their_scores(script, tmp_path):
    command = "train_student", "--arms", "all", "--draws", "2", "--teacher", "default", *SHORT
    done = script(*command)
    assert done.code == 0, done.err
    found = {(r["arm"], r["images"]["name"]) for r in runs(tmp_path)}
    arms = {"distilled-soft", "distilled-hard", "distilled-plain", "full-hard"}
    assert {arm for arm, _ in found} == arms | {"random-soft", "random-plain"} and len(found) == 8
    full = next(r for r in runs(tmp_path) if r["arm"] == "full-hard")
    assert full["protocol"]["name"] == "teacher-v1" and full["top1"] > 0.95
    report = json.loads(next(tmp_path.glob("results/digits/rd3-v1-*/digits-dm*/report.json")).read_text())
    found = report["scores"]["convnet3"]
    assert {"hlr", "ior", "lrs", "ars"} <= found.keys()
    assert found["lrs"]["low"] is None and found["lrs"]["draws"] == 2  # a single seed: no interval
    card = next(tmp_path.glob("results/digits/rd3-v1-*/digits-dm*/README.md")).read_text()
    for text in (card, done.out):
        assert "reaches" in text and "where all real images reach" in text and "without any" in text
        assert "2 draws of random images; a score should have at least 3" in text and "no interval" in text
    assert not list(tmp_path.glob("results/**/random-*/seed*/model.safetensors"))


def benchmark_file(tmp_path, monkeypatch, name, changes):
    """A benchmark of that name beside the others: the digits with lines exchanged, or added at the end ({"": lines})."""
    folder = tmp_path / "benchmarks"
    shutil.copytree(benchmarks.BENCHMARKS, folder)
    text = (folder / "digits.toml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1) if old else text + new
    (folder / f"{name}.toml").write_text(text)
    monkeypatch.setattr(benchmarks, "BENCHMARKS", folder)


def test_a_cited_accuracy_stands_in_for_full_hard_and_every_output_says_so(script, tmp_path, monkeypatch):
    cited = '\n[[full_data]]\nstudent = "convnet3"\ntop1 = {}\nsource = "{}"\n'
    lines = cited.format(0.99, "Somebody 2020, Table 1") + cited.format(0.97, "Another 2021")
    benchmark_file(tmp_path, monkeypatch, "digits", {"": lines})
    what = "--protocol", "hard-label-v1", *SHORT, "--arms", "lrs", "--seeds", "0,1", "--draws", "1", "--full-hard", "cited"
    done = script("train_student", *what)
    assert done.code == 0, done.err
    assert {run["arm"] for run in runs(tmp_path)} == {"distilled-hard", "random-hard"}
    path = next(tmp_path.glob("results/digits/*/digits-dm*/report.json"))
    report = json.loads(path.read_text())
    assert [one["top1"] for one in report["cited"]["convnet3"]] == [0.99, 0.97]
    lrs = report["scores"]["convnet3"]["lrs"]
    assert lrs["cited"] == "Somebody 2020, Table 1" and lrs["low"] < lrs["value"] < lrs["high"]
    hlr = report["scores"]["convnet3"]["hlr"]["value"]
    assert hlr == pytest.approx(0.99 - report["arms"]["convnet3"]["distilled-hard"]["mean"])
    card = path.with_name("README.md").read_text()
    for part in ("full-hard, cited", "99.00 %, Somebody 2020, Table 1", "Others cite 97.00 %, Another 2021",
                 "no interval covers it", "--full-hard cited"):  # fmt: skip
        assert part in card, part
    assert "cited (Somebody 2020, Table 1), not measured here" in done.out and "full-hard, cited" in done.out
    refused = script("train_student", *what, "--student", "convnet2", "--out", "other")
    assert refused.code == 2 and "cites no full-data accuracy of convnet2, but of convnet3" in refused.err
    assert not (tmp_path / "other").exists()


def test_several_students_make_a_matrix_with_the_drop_from_the_best(script, tmp_path):
    names = "convnet3,resnet18,mobilenetv2_100,efficientnet_b0"
    done = script("train_student", "--protocol", "hard-label-v1", *SHORT, "--student", names, "--arms", "distilled-hard")
    assert done.code == 0, done.err
    folder = next(tmp_path.glob("results/digits/*/digits-dm*/report.json")).parent
    report = json.loads((folder / "report.json").read_text())
    means = {student: of["distilled-hard"]["mean"] for student, of in report["arms"].items()}
    assert set(means) == {"convnet3", "resnet18_cifar", "mobilenetv2_100", "efficientnet_b0"}
    drop = {student: of["distilled-hard"] for student, of in report["students"]["drop"].items()}
    assert drop == {student: pytest.approx(max(means.values()) - mean) for student, mean in means.items()}
    best = report["students"]["best"]["distilled-hard"]
    card = (folder / "README.md").read_text()
    assert f"| {best} | {100 * means[best]:.2f} (best) |" in card and "points below the best student" in done.out


def test_a_recipe_that_resizes_test_images_is_scored_on_those_pixels(script, tmp_path, monkeypatch):
    """Photographs of 30x20: a shorter side of 8 px shows more of them than 9, torchvision's way, and images stay the same."""
    changes = {"shorter_side = 0": "shorter_side = 9", 'name = "digits"': 'name = "photographs"',
               "test_images = 500": "test_images = 20", "train_images = 1297": "train_images = 20"}  # fmt: skip
    benchmark_file(tmp_path, monkeypatch, "photographs", changes)
    pictures = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 30, 3), np.uint8)) for k in range(20)]
    for split in ("train", "test"):
        for k, picture in enumerate(pictures):
            path = tmp_path / "data" / split / str(k // 2) / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    what = "--benchmark", "photographs", "--protocol", "hard-label-v1", "--data-dir", "data", "--runs-only"
    for out, more in (("as-it-is", ()), ("own", ("--set", "training.test_resize=8"))):
        done = script("train_student", *what, "--distilled", "random:ipc=1,seed=0", "--out", out, *SHORT, *more)
        assert done.code == 0, done.err
    (plain,), (own,) = runs(tmp_path, "as-it-is/**/seed0.json"), runs(tmp_path, "own/**/seed0.json")
    assert own["recipe"]["training"]["test_resize"] == 8 and "test_resize" not in plain["recipe"]["training"]
    for run, shorter_side in ((plain, 9), (own, 8)):
        zoomed = v2.Compose([v2.Resize(shorter_side, antialias=True), v2.CenterCrop(8)])
        pixels = np.stack([np.asarray(zoomed(picture)).transpose(2, 0, 1) for picture in pictures])
        wanted = image_sets.make("test", pixels, [k // 2 for k in range(20)], tuple("0123456789"), "test").fingerprint
        assert run["test"]["fingerprint"] == wanted
    assert plain["images"]["fingerprint"] == own["images"]["fingerprint"]


@pytest.mark.slow
def test_students_from_convnet_to_vit_train_at_32_pixels(script, tmp_path, monkeypatch):
    """The digits enlarged, two epochs each, the whole test split."""
    changes = {"size = 8": "size = 32", "shorter_side = 0": "shorter_side = 32", 'name = "digits"': 'name = "digits32"',
               'distilled = "digits-dm-ipc1"': 'distilled = "random:ipc=1,seed=0"'}  # fmt: skip
    benchmark_file(tmp_path, monkeypatch, "digits32", changes)
    for split in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(*tables.sklearn_digits(split))):
            path = tmp_path / "data" / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    names = "convnet3,resnet18,mobilenetv2_100,efficientnet_b0,swin_tiny,vit_base"
    done = script("train_student", "--benchmark", "digits32", "--protocol", "hard-label-v1", "--set", "training.epochs=2",
                  "--student", names, "--runs-only", "--data-dir", "data")  # fmt: skip
    assert done.code == 0, done.err
    students = {run["student"]: run for run in runs(tmp_path)}
    small = {"resnet18_cifar", "swin_tiny_cifar", "vit_base_cifar"}
    assert set(students) == {"convnet3", "mobilenetv2_100", "efficientnet_b0", *small}
    assert all(run["images_scored"] == 500 and run["recipe"]["steps"] == 2 for run in students.values())


def test_a_dry_run_says_everything_and_writes_nothing(script, tmp_path):
    done = script("train_student", "--dry-run", "--arms", "lrs", "--teacher", "default")
    assert done.code == 0 and not list(tmp_path.iterdir())
    for text in (
        "digest 974086290837",
        "400 epochs x 1 of 10 images",
        "teacher-v1",
        "temperature=20.0",
        "random-ipc1-seed2",
        "400 epochs of 1 teacher(s): default",
    ):
        assert text in done.out
    done = script("generate_soft_labels", "--dry-run")
    assert done.code == 0 and "4000 views, 148 kB in 16 shards" in done.out and not list(tmp_path.iterdir())


def test_monitoring_the_test_split_is_recorded_and_never_the_score(script, tmp_path):
    script("train_student", "--arms", "distilled-hard", "--set", "training.epochs=40", "--monitor-test")
    (run,) = runs(tmp_path)
    watched = [entry["test_top1"] for entry in run["history"] if "test_top1" in entry]
    assert run["monitored_test"] and len(watched) == 20
    assert "watched" in next(tmp_path.glob("results/**/README.md")).read_text()
    script("train_student", "--arms", "distilled-hard", "--set", "training.epochs=40", "--out", "quiet")
    (quiet,) = runs(tmp_path, "quiet/**/seed0.json")
    assert quiet["top1"] == run["top1"] and not quiet["monitored_test"]
    assert [e["loss"] for e in quiet["history"]] == [e["loss"] for e in run["history"]]


def test_list_has_a_line_for_everything_with_a_name(script):
    done = script("rd3_utils", "list")
    words = [line.split()[:2] for line in done.out.splitlines()]
    for line in (
        ["benchmark", "digits"],
        ["protocol", "rd3-v1"],
        ["student", "convnet3"],
        ["loss", "kl"],
        ["synthesize", "rded"],
        ["benchmark", "imagenet-1k"],
        ["images", "random"],
    ):
        assert line in words


def test_synthesize_makes_the_same_set_again_and_never_overwrites(script, tmp_path, digits):
    for name in ("a", "b"):
        done = script("rd3_utils", "synthesize", "dm", "--ipc", "1", "--iterations", "3", "--out", name)
        assert done.code == 0 and "10 images" in done.out
    a, b = (image_sets.read(str(tmp_path / name), digits) for name in ("a", "b"))
    assert a.fingerprint == b.fingerprint and a.ipc == 1
    done = script("rd3_utils", "synthesize", "dm", "--ipc", "1", "--iterations", "3", "--out", "a")
    assert done.code == 2 and "nothing is overwritten" in done.err


BAD = {
    "benchmark": (["--benchmark", "digit"], "unknown benchmark 'digit': did you mean 'digits'?"),
    "protocol": (["--protocol", "rd3v1"], "unknown protocol 'rd3v1': did you mean 'rd3-v1'?"),
    "student": (["--student", "convnet9"], "unknown student 'convnet9': did you mean 'convnet"),
    "arm": (["--arms", "distiled-soft"], "unknown arm 'distiled-soft': did you mean 'distilled-soft'?"),
    "override": (
        ["--set", "training.epochz=3"],
        "unknown knob in --set 'training.epochz': did you mean 'training.epochs'?",
    ),
    "folder": (["--distilled", "./nowhere"], "no folder or file './nowhere'"),
    "name": (["--distilled", "digits-dm-ipc7"], "no embedded set of that name (digits-dm-ipc1, digits-dm-ipc10)"),
    "ipc": (["--distilled", "random:ipc=500"], "ipc=500 asks for more; use ipc <="),
    "no labels": ([], "no soft labels for digits-dm-ipc1@"),
    "no arm": (["--protocol", "hard-label-v1", "--arms", "distilled-soft"], "has no arm with soft labels; it has hard"),
    "teacher": (["--teacher", "convnet3_no"], "unknown teacher 'convnet3_no'"),
    "nesterov": (["--set", "training.nesterov=true", "--set", "training.optimizer=sgd"], "needs a training.momentum"),
    "transformer": (["--student", "maxvit_tiny_tf_224"], "student maxvit_tiny_tf_224 cannot be built for 8 px"),
    "released name": (["--protocol", "nowhere/rd3-v1.toml"], "unknown protocol"),
    "two teachers": (["--teacher", "default", "--teacher", "default"], "2 teachers given, the recipe labels with 1"),
    "no store": (["--soft-labels", "nothing_here"], "under nothing_here; add --teacher default"),
    "hard soft": (["--set", "loss.name=ce"], "loss 'ce', which ignores them"),
    "real data": (["--arms", "full-hard", "--data-dir", "nowhere"], "no folder or file 'nowhere'"),
    "tracker": (["--log-with", "trackio"], "pip install trackio"),
    "no citation": (
        ["--arms", "lrs", "--full-hard", "cited"],
        "cites no full-data accuracy of convnet3, but of no",
    ),
    "depth": (["--student", "convnet6"], "8 px is too small"),
    "an empty student": (["--student", ""], "--student is empty"),
    "an empty set": (["--distilled="], "--distilled is empty"),
    "an empty teacher": (["--teacher", "default", "--teacher", ""], "--teacher is empty"),
    "no cache": (["--label-cache-gb", "nan"], "'nan' is no number of gigabytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_input_gets_one_clear_line(script, tmp_path, case):
    arguments, wanted = BAD[case]
    done = script("train_student", *arguments)
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == 2 and len(lines) == 1 and wanted in lines[0], done.err
    assert "Traceback" not in done.err and not list(tmp_path.rglob("*.json"))


def test_set_without_anything_that_follows_it_is_refused(script, tmp_path):
    """full-hard is teacher-v1 whatever --protocol says, so --set would change nothing."""
    done = script("train_student", "--arms", "full-hard", "--set", "training.epochs=1")
    assert done.code == 2 and "add --protocol teacher-v1." in done.err and not any(tmp_path.iterdir())
    done = script("train_student", "--arms", "full-hard", "--set", "training.epochs=1", "--protocol", "teacher-v1", "--dry-run")
    assert done.code == 0 and "epochs=1," in done.out


def test_the_command_that_an_error_names_is_the_one_that_helps(script):
    done = script("train_student", *SHORT, "--distilled", "random:ipc=1,seed=3")
    command = done.err.split("or make them with: ")[1].split()
    assert command[:3] == ["accelerate", "launch", "generate_soft_labels.py"]
    assert script("generate_soft_labels", *command[3:]).code == 0
    assert script("train_student", *SHORT, "--distilled", "random:ipc=1,seed=3").code == 0


def test_labels_of_other_images_and_half_written_ones_are_refused(script, tmp_path):
    script("generate_soft_labels", *SHORT)
    (store,) = [p.parent for p in tmp_path.glob("soft_labels/**/index.json")]
    done = script("train_student", *SHORT, "--distilled", "random:ipc=1,seed=0", "--soft-labels", store)
    assert done.code == 2 and "for images digits-dm-ipc1@" in done.err and "this run has random-ipc1-seed0@" in done.err
    done = script("train_student", "--set", "training.epochs=9", "--soft-labels", store)
    assert done.code == 2 and "labels 3 epochs, the recipe needs 9" in done.err
    (store / "index.json").unlink()
    for arguments in ([], ["--soft-labels", str(store)]):
        done = script("train_student", *SHORT, *arguments)
        assert done.code == 2 and "half-written: 3 shards but no index.json" in done.err


def test_two_teachers_stores_are_not_guessed_between(script, tmp_path, second):
    for teacher in ("default", second):
        done = script("generate_soft_labels", *SHORT, "--teacher", teacher)
        assert done.code == 0, done.err
    done = script("train_student", *SHORT)
    assert done.code == 2 and "2 stores label these views" in done.err
    stores = [path.parent for path in tmp_path.glob("soft_labels/**/index.json")]
    text = "".join(path.read_text() for path in tmp_path.glob("soft_labels/**/index.json"))
    assert len(stores) == 2 and str(tmp_path.parent) not in text and "local-dir:convnet2_bn" in text
    done = [script("train_student", *SHORT, "--soft-labels", store, "--teacher", "default") for store in stores]
    assert sorted(d.code for d in done) == [0, 2] and "teachers" in "".join(d.err for d in done if d.code)


def test_a_run_is_not_passed_off_as_one_with_other_labels(script):
    assert script("train_student", *SHORT, "--teacher", "default").code == 0
    done = script("train_student", *SHORT, "--teacher", "default", "--views-seed", "1")
    assert done.code == 2 and "another views seed: 0, and this command has 1; give another --out" in done.err


def test_hard_protocols_have_nothing_to_label(script):
    done = script("generate_soft_labels", "--protocol", "hard-label-v1")
    assert done.code == 2 and "has no arm with soft labels; it has hard" in done.err


def test_a_store_of_another_kind_is_not_mixed_into(script):
    script("generate_soft_labels", *SHORT)
    done = script("generate_soft_labels", *SHORT, "--label-dtype", "u8")
    assert done.code == 2 and "already holds labels with label_dtype fp16" in done.err


def test_the_scripts_explain_themselves(script):
    for name in ("train_student", "generate_soft_labels"):
        done = script(name, "--help")
        assert done.code == 0 and "--protocol" in done.out
    assert (PROJECT / "requirements.txt").is_file()


def test_everything_works_without_docstrings_and_assertions(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from rd3_utils import __main__ as rd3\n" + "\n".join(
        f"rd3.run({words.split()})"
        for words in (
            "list",
            "train --protocol hard-label-v1 --set training.epochs=1 --arms distilled-hard",
        )
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(runs(tmp_path)) == 1
