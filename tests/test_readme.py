"""The README is true: its commands parse and run, its tree is the tree, its pictures are there."""

import json
import re
import shlex

import pytest
from conftest import PROJECT

from rd3_utils.protocols import benchmark, protocol
from rd3_utils.scoring import runs as run_files

README = (PROJECT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]}
COMMANDS = list(dict.fromkeys(re.findall(
    r"^(?:accelerate launch|python -m) ((?:train_student|generate_soft_labels|rd3_utils)\S*.*?)(?:  +#.*)?$",
    "\n".join(PAGES.values()), re.MULTILINE)))  # fmt: skip
SHORT = ["--set", "training.epochs=2"]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(script, command):
    name, *arguments = shlex.split(command)
    if name == "rd3_utils":
        arguments += ["--iterations", "2"] if "dm" in arguments else ["--dry-run"] if "study" in arguments else []
        arguments = [str(PROJECT / word) if word.startswith("studies/") else word for word in arguments]
    elif "--distilled" in arguments and "digits-dm-ipc10" in arguments and name == "train_student.py":
        assert script("generate_soft_labels", "--distilled", "digits-dm-ipc10", *SHORT).code == 0
        arguments += SHORT
    else:
        arguments += SHORT
    done = script(name.removesuffix(".py"), *arguments)
    assert done.code == 0, done.err


def test_every_module_stands_in_the_tree():
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        assert path.name == "__init__.py" or path.name in README, path


def measured(name, ipc, method):
    """The committed Runs of ConvNet-3 on CIFAR-10 under protocol `name`, on images of `method`."""
    files = sorted((PROJECT / "measured").glob(f"cifar10/{name}-*/{method}-ipc{ipc}[-@]*/convnet3/*/seed*.json"))
    return [run_files.read(path) for path in files]


MEASURED = [(name, "random-hard", ipc) for name, ipc in (("hard-label-v1", 1), ("hard-label-v1", 10), ("hard-label-v1", 50))]
MEASURED += [("rd3-v1", arm, ipc) for arm in ("random-soft", "distilled-soft") for ipc in (1, 10)]


@pytest.mark.parametrize("name, arm, ipc", MEASURED)
def test_the_numbers_on_real_data_are_those_of_the_committed_runs(name, arm, ipc):
    found = measured(name, ipc, "rded" if arm == "distilled-soft" else "random")
    assert {run["arm"] for run in found} == {arm}
    s = run_files.summary(found)
    assert len(found) >= 3 and (not s["draws"] or len(s["draws"]) >= 3)
    row = next(line for line in README.split("## On real data")[1].splitlines() if line.startswith(f"| {ipc} |")
               and f"{100 * s['mean']:.2f} +- {100 * s['std']:.2f}" in line)  # fmt: skip
    assert ("draws" in row) or arm == "distilled-soft"
    assert name == "hard-label-v1" or "85.63 % on the test split" in README
    for run in found:
        assert run["protocol"]["digest"] == protocol.load(name).digest and not run["monitored_test"]
        assert run["images_scored"] == benchmark.load("cifar10").data.test_images
        assert all(100 * teacher["top1"] == pytest.approx(85.63) for teacher in run["teachers"])


STUDIED = ("hard-label-v1", "sre2l-v1", "rded-v1", "rd3-v1")


@pytest.mark.parametrize("method", ["random", "RDED", "DM", "SRe2L", "CDA"])
def test_the_table_of_the_study_is_that_of_the_committed_runs(method):
    row = next(line for line in README.split("## On real data")[1].splitlines() if line.startswith(f"| {method} |"))
    for name, cell in zip(STUDIED, row.split("|")[2:-1]):
        found = measured(name, 1, method.lower())
        s = run_files.summary(found)
        assert len(found) == (9 if method == "random" else 3) and {run["seed"] for run in found} == {0, 1, 2}
        assert {run["protocol"]["digest"] for run in found} == {protocol.load(name).digest}
        assert cell.strip() == f"{100 * s['mean']:.2f} +- {100 * s['std']:.2f}"


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
