"""The README is true: its commands parse and run, its tree is the tree, its pictures are there."""

import dataclasses
import importlib.util
import itertools
import json
import re
import shlex
import statistics
import textwrap

import numpy as np
import pytest
from conftest import PROJECT, run_script

from rd3_utils.protocols import benchmark, protocol
from rd3_utils.scoring import measure
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results
from rd3_utils.studies import study as studies

README = (PROJECT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]}
COMMANDS = list(dict.fromkeys(re.findall(
    r"^(?:accelerate launch|python -m) ((?:train_student|generate_soft_labels|rd3_utils)\S*.*?)(?:  +#.*)?$",
    "\n".join(PAGES.values()), re.MULTILINE)))  # fmt: skip
SHORT = ["--set", "training.epochs=2"]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 10


def put_full_students(folder):
    """Three students of all real images that are there: the embedded teacher's Run, for three seeds. 17 s each to train."""
    known = json.loads((PROJECT / "rd3_utils/embedded/digits-teacher-convnet3/run.json").read_text())
    run = run_files.read(PROJECT / "rd3_utils/embedded/digits-teacher-convnet3/run.json")
    for seed in range(3):
        path = Results(folder).path_of(dataclasses.replace(run, seed=seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**known, "seed": seed}))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(script, tmp_path, command):
    name, *arguments = shlex.split(command)
    if name == "rd3_utils":
        arguments += ["--iterations", "2"] if "dm" in arguments else ["--dry-run"] if "study" in arguments else []
        arguments = [str(PROJECT / word) if word.startswith("studies/") else word for word in arguments]
    elif "--distilled" in arguments and "digits-dm-ipc10" in arguments and name == "train_student.py":
        assert script("generate_soft_labels", "--distilled", "digits-dm-ipc10", *SHORT).code == 0
        arguments += SHORT
    else:
        arguments += ["--set", "training.epochs=1"] if "lrs" in arguments else SHORT
        if "lrs" in arguments:
            put_full_students(tmp_path / "results")
        arguments += ["--protocol", "teacher-v1"] if "full-hard" in arguments else []
    done = script(name.removesuffix(".py"), *arguments)
    assert done.code == 0, done.err


def test_the_readme_shows_what_verify_says(monkeypatch):
    """But for the seconds."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("COLUMNS", raising=False)
    command, shown = re.search(r"    \$ python -m rd3_utils (verify .*)\n((?:    .*\n|\n(?=    ))+)", README).groups()
    done = run_script(PROJECT, "rd3_utils", *command.split())
    seconds = re.compile(r"[\d.]+ s\.$")
    assert done.code == 0
    assert seconds.sub("", done.out.strip()) == seconds.sub("", textwrap.dedent(shown).strip())


def test_the_readme_counts_the_released_recipes():
    assert f"{len(protocol.names())} released recipes" in README


def test_every_module_stands_in_the_tree():
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        assert path.name == "__init__.py" or path.name in README, path


def measured(name, ipc, method, student="convnet3"):
    """The committed Runs of a student on CIFAR-10 under protocol `name`, on images of `method`."""
    files = sorted((PROJECT / "measured").glob(f"cifar10/{name}-*/{method}-ipc{ipc}[-@]*/{student}/*/seed*.json"))
    return [run_files.read(path) for path in files]


def stated(runs):
    """Mean and standard deviation as the README prints them; a single one alone."""
    s = run_files.summary(runs)
    return f"{100 * s['mean']:.2f}" + ("" if s["std"] is None else f" +- {100 * s['std']:.2f}")


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_random_images_with_hard_labels_are_those_of_the_committed_runs(ipc):
    found = measured("hard-label-v1", ipc, "random")
    assert {run.arm for run in found} == {"random-hard"} and len(run_files.summary(found)["draws"]) == 3
    assert f"| {ipc} | {stated(found)} (3 draws" in README


def study_report(name="cifar10-cpu"):
    return json.loads((PROJECT / f"measured/study/{name}/report.json").read_text())


def rows_of(heading):
    """The cells of the README's table whose first cell is `heading`: a list of names, then one list per row."""
    table = README.split(f"| {heading} |")[1].split("\n\n")[0]
    names, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines())
    return names, rows


@pytest.mark.parametrize("ipc", [1, 10, 50])
@pytest.mark.parametrize("method", ["random", "RDED", "DM", "SRe2L", "CDA"])
def test_the_tables_of_the_study_are_those_of_the_committed_runs(method, ipc):
    report = study_report()
    names, rows = rows_of(f"{ipc} image{'s' if ipc > 1 else ''} per class, top-1 %")
    [row] = [row for row in rows if row[0] == method]
    assert len(names) == (3 if ipc == 50 else 5)
    for name, cell in zip(names[:-1], row[1:-1], strict=True):
        found = measured(name, ipc, method.lower())
        assert cell == stated(found)
        drawn = {0, 1, 2} if method == "random" else {None}
        seeds = {0} if method == "random" and ipc > 1 else {0, 1, 2}
        assert sorted((run.draw, run.seed) for run in found) == sorted(itertools.product(drawn, seeds))
        wanted = {"ipc": ipc, "method": method.lower(), "protocol": name}
        [told] = [e for e in report["cells"] if {key: e[key] for key in wanted} == wanted]
        assert told["n"] == len(found) and told["missing"] == 0
        for run in found:
            assert run.protocol.digest == protocol.load(name).digest and not run.monitored_test
            assert run.images_scored == benchmark.load("cifar10").data.test_images
            assert all(100 * teacher.top1 == pytest.approx(85.63) for teacher in run.teachers)
    [share] = [e["recognised"] for e in report["recognised"] if (e["ipc"], e["method"]) == (ipc, method.lower())]
    assert row[-1] == f"{100 * share:.0f} %" and "85.63 % on the test split" in README


RESNET18 = "resnet18_cifar-bf16"  # the folder of its students, in the precision that they were trained in


@pytest.mark.parametrize("method", ["random", "RDED", "DM", "SRe2L", "CDA"])
def test_the_table_of_resnet18_is_that_of_the_committed_runs(method):
    names, rows = rows_of("ten images, ResNet-18, top-1 %")
    [row] = [row for row in rows if row[0] == method]
    assert names == ["hard-label-v1", "sre2l-v1", "rded-v1", "rd3-v1", "recognised"]
    recognised = {}
    for name, cell in zip(names[:-1], row[1:-1], strict=True):
        found = measured(name, 1, method.lower(), RESNET18)
        assert cell == stated(found) and measure.odd_one(found)
        assert {run.network.initialisation for run in found} == {2} and {run.environment.precision for run in found} == {"bf16"}
        assert {run.protocol.digest for run in found} == {protocol.load(name).digest}
        recognised |= {run.draw: run.labels.recognised for run in found if run.labels.kind == "soft"}
    shares = [100 * share for share in recognised.values()]
    assert row[-1] == (f"{statistics.fmean(shares):.0f} %" if shares else "-")


def test_what_the_readme_says_of_resnet18_is_what_its_runs_and_their_report_say():
    paths = (PROJECT / "measured").glob(f"cifar10/*/*/{RESNET18}/*-*/seed*.json")
    students = [run_files.read(path) for path in paths if "full-hard" not in path.parts]
    planned = len(studies.cells(studies.load(PROJECT / "studies/cifar10-resnet18.toml")))
    text, minutes = " ".join(README.split()), [run.seconds / 60 for run in students]
    assert len(students) == planned and f"all {planned} students, three of each kind" in text
    assert f"{min(minutes):.0f} to {max(minutes):.0f} minutes each" in text
    for method, own in (("RDED", "rded-v1"), ("SRe2L", "sre2l-v1")):
        assert f"| {method}, `{own}` | {stated(measured(own, 1, method.lower(), RESNET18))} (ResNet-18) |" in README
    assert f"has {stated(measured('dm-v1', 1, 'dm', RESNET18))} under `dm-v1`" in text
    report = json.loads((PROJECT / "measured/study/cifar10-resnet18/report.json").read_text())
    parts = {part: f"{100 * of['share']:.0f} %" for part, of in report["decomposition"][0]["parts"].items()}
    assert f"method makes {parts['method']} of the variance, the protocol {parts['protocol']}" in text
    assert f"their interaction {parts['interaction']}" in text


@pytest.mark.parametrize("protocol_name", ["hard-label-v1", "sre2l-v1", "rded-v1", "rd3-v1"])
def test_of_resnet18_rded_is_best_and_dm_no_better_than_random_images(protocol_name):
    means = {
        method: statistics.fmean(run.top1 for run in measured(protocol_name, 1, method, RESNET18))
        for method in ("random", "rded", "dm", "sre2l", "cda")
    }
    assert max(means, key=lambda method: means[method]) == "rded" and means["dm"] < means["random"]


def test_the_students_on_tiny_imagenet_are_those_of_the_committed_runs():
    text = " ".join(README.split())
    for side, method, told in (
        ("random", "random", "random images {:.2f} %"),
        ("distilled", "rded-resnet18", "47.10 %, {:.2f} %"),
    ):
        (path,) = (PROJECT / "measured/tiny-imagenet").glob(f"hard-label-v1-*/{method}-ipc1*@*/convnet4/{side}-hard/seed*.json")
        run = run_files.read(path)
        assert told.format(100 * run.top1) in text and run.images_scored == 10000
        assert run.seconds == pytest.approx(18 * 60, abs=30) and run.protocol.digest == protocol.load("hard-label-v1").digest


@pytest.mark.parametrize("name, title", [("cifar10", "CIFAR-10"), ("tiny-imagenet", "Tiny-ImageNet")])
def test_the_resnet18_teachers_are_those_of_the_committed_runs(name, title):
    (path,) = (PROJECT / "measured" / name).glob("teacher-v1-*/full@*/resnet18_cifar-bf16/full-hard/seed0.json")
    run, text = run_files.read(path), (PROJECT / "docs/benchmarks.md").read_text()
    epochs = run.recipe["training"]["epochs"]
    assert f"{title}: {epochs} epochs, {100 * run.top1:.2f} %, {run.seconds:.0f} s" in " ".join(text.split())
    assert "H200" in run.environment.devices and "H200" in text


@pytest.mark.parametrize("method, own, student, of", [("RDED", "rded-v1", "convnet3_bn", "ConvNet-3 with batch norm"),
                                                       ("RDED", "rded-v1", "convnet3", "ConvNet-3"),
                                                       ("DM", "dm-v1", "convnet3", "ConvNet-3"),
                                                       ("SRe2L", "sre2l-v1", "convnet3", "ConvNet-3")])  # fmt: skip
def test_the_numbers_beside_published_ones_are_those_of_the_committed_runs(method, own, student, of):
    here = ", ".join(stated(measured(own, ipc, method.lower(), student)) for ipc in (1, 10))
    assert f"| {method}, `{own}` | {here} ({of}) |" in README


def test_shares_of_the_variance_and_spreads_of_the_readme_are_those_of_the_report():
    report, text = study_report(), " ".join(README.split())
    shares = {
        e["ipc"]: {part: f"{100 * of['share']:.0f} %" for part, of in e["parts"].items()} for e in report["decomposition"]
    }
    one, more = shares.pop(1), shares
    assert f"the method makes {one['method']} of the variance" in text
    assert f"the protocol {one['protocol']} and their interaction {one['interaction']}" in text
    for ipc, of in more.items():
        assert f"at {ipc}, method {of['method']}, protocol {of['protocol']}, interaction {of['interaction']}" in text
    [spread] = [e["spread"] for e in report["before_after"] if e["ipc"] == 10]
    before, after = (f"{100 * spread[when]['spread']:.1f}" for when in ("before", "after"))
    assert f"{before} points apart under their own recipes and {after} under `rd3-v1`" in text
    hard, soft = (f"{100 * e['spread']:.1f}" for p in ("hard-label-v1", "rd3-v1") for e in report["spread"]
                  if (e["ipc"], e["protocol"]) == (50, p))  # fmt: skip
    assert f"At 50 they are {hard} points apart with hard labels and {soft} under `rd3-v1`" in text
    rded, sre2l, cda = (stated(measured("rd3-v1", 50, method)) for method in ("rded", "sre2l", "cda"))
    assert f"RDED has {rded} here, SRe2L {sre2l} and CDA {cda}" in text
    means = {
        (m, n): run_files.summary(measured(n, 50, m))["mean"]
        for m in ("random", "rded", "dm")
        for n in ("hard-label-v1", "rd3-v1")
    }
    gains = {m: [100 * (means[m, n] - means["random", n]) for n in ("hard-label-v1", "rd3-v1")] for m in ("dm", "rded")}
    assert "DM is {:.0f} points above random images with hard labels and {:.1f} under `rd3-v1`".format(*gains["dm"]) in text
    assert "RDED {:.1f} and {:.1f}.".format(*gains["rded"]) in text
    assert report["cells_planned"] == report["cells_there"] and f"all {report['cells_there']} students" in text


def test_lrs_and_ars_of_the_readme_are_those_of_the_committed_report():
    path = next((PROJECT / "measured").glob("cifar10/rd3-v1-*/rded-ipc10@*/report.json"))
    scores = json.loads(path.read_text())["scores"]["convnet3_bn"]
    assert f"LRS {scores['lrs']['value']:.3f}, ARS {scores['ars']['value']:.3f} (95 %" in README


@pytest.mark.slow
def test_the_demo_measures_what_the_readme_says(script, tmp_path):
    """Both commands of make demo; another thread count or torch may move a mean by a point or two."""
    for name, arms, *more in (
        ("hard-label-v1", "distilled-hard,random-hard"),
        ("rd3-v1", "distilled-soft,random-soft", "--teacher", "default"),
    ):
        assert script("train_student", "--protocol", name, "--arms", arms, "--seeds", "0,1,2", *more).code == 0
    report = json.loads(next(tmp_path.glob("results/digits/rd3-v1-*/digits-dm-*/report.json")).read_text())
    cells = report["comparison"]["convnet3"]["cells"]
    for side, row in (("distilled", "10 distilled images (DM)"), ("random", "10 random real images, 3 draws")):
        stated = re.search(rf"\| {re.escape(row)} \| ([\d.]+) \| ([\d.]+) \|", README).groups()
        for protocol_name, value in zip(("hard-label-v1", "rd3-v1"), stated):
            assert cells[side][protocol_name] == pytest.approx(float(value) / 100, abs=0.02)


def test_every_picture_and_file_of_the_readme_is_there():
    for page, text in PAGES.items():
        for name in re.findall(r"\[.*?\]\((?!http)(.*?)\)", text):
            assert (page.parent / name).is_file(), name
        for name in re.findall(r"`([\w/]+\.(?:py|yaml|toml))`", text):
            assert (PROJECT / name).exists() or list(PROJECT.rglob(name)), name


def test_the_spread_of_views_and_seeds_is_that_of_the_committed_students():
    """Against a two-way table worked out by hand, and against the page."""
    spec = importlib.util.spec_from_file_location("views_and_seeds", PROJECT / "bench/views_and_seeds.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    additive = np.array([[0.1, 0.2, 0.6], [0.2, 0.3, 0.7]])  # 0.1 per draw, seeds 0, 0.1 and 0.5: nothing is left for both
    told = bench.deviations(additive)
    assert told["rest"] == pytest.approx(0, abs=1e-8) and told["views"] == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert told["seeds"] == told["within"] == pytest.approx(np.std([0, 0.1, 0.5], ddof=1))
    page = (PROJECT / "docs/statistics.md").read_text()
    students = json.loads((PROJECT / "docs/views-and-seeds.json").read_text())
    for recipe, top1 in students["top1"].items():
        assert np.array(top1).shape == (6, 3)
        values = [
            f"{100 * bench.deviations(np.array(top1))[name]:.2f}"
            for name in ("within", "draws", "all", "views", "seeds", "rest")
        ]
        assert f"| {recipe} | {' | '.join(values)} |" in page
    means = 100 * np.array(students["top1"]["rd3-v1, soft labels"]).mean(1)
    assert f"from {means.min():.2f} to {means.max():.2f}" in page
