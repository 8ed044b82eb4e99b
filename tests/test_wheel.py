"""The wheel: a copy of the project, built and installed into an empty environment, runs the demo's job outside of the project.

The environment is empty of this project and borrows the packages of the one that runs the tests: they are 6 GB.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import PROJECT

SHORT = "--set", "training.epochs=2", "--protocol", "hard-label-v1", "--runs-only"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """run(*words) in an empty folder, with the commands of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True).stdout
    for name in filter(lambda name: not name.startswith(("measured/", "tests/", "docs/")), files.split()):
        if (PROJECT / name).is_file():  # a copy: building leaves folders behind
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, folder / "source" / name)
    ok([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
    where = next((folder / "env/lib").glob("python*/site-packages"))
    (where / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "env/bin/python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    ok([*pip, "--no-build-isolation", "--ignore-installed", folder / "source"])
    (folder / "empty").mkdir()

    def run(*words):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{folder / 'env/bin'}:{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [str(word) for word in words], cwd=folder / "empty", env=environment, capture_output=True, text=True
        )

    run.folder, run.site, run.python = folder / "empty", where, python
    return run


def ok(words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_carries_the_package_its_data_and_its_licence(installed):
    files = {str(path.relative_to(installed.site)) for path in installed.site.rglob("*")}
    for name in ("rd3_utils/embedded/digits-dm-ipc1/train-00000-of-00001.parquet", "rd3_utils/protocols/released/rd3-v1.toml",
                 "rd3_utils/leaderboard/templates/layout.html", "rd3_utils/accelerate_configs/cpu.yaml", "train_student.py",
                 "rd3_utils/study_files/digits-smoke.toml", "rd3_utils/data/catalogue.toml"):  # fmt: skip
        assert name in files
    assert any(name.endswith("licenses/LICENSE") for name in files) and any(name.endswith("NOTICE") for name in files)
    assert not any(name.startswith(("tests", "measured")) for name in files)


def test_the_command_rd3_trains_and_labels_outside_of_the_project(installed):
    assert installed("rd3", "--version").stdout.startswith("rd3 ")
    done = installed("rd3", "train", *SHORT)
    assert done.returncode == 0, done.stderr
    (path,) = installed.folder.glob("results/digits/*/*/*/*/seed0.json")
    run = json.loads(path.read_text())
    assert run["environment"]["git"] is None and run["images_scored"] == 500
    done = installed("rd3", "label", "--set", "training.epochs=2", "--dry-run")
    assert done.returncode == 0 and "2 epochs" in done.stdout, done.stderr
    done = installed("rd3", "study", "digits-smoke.toml", "--dry-run")
    assert done.returncode == 0 and "8 cells" in done.stdout, done.stderr


def test_two_processes_of_the_wheel_train_one_student(installed):
    config = installed.site / "rd3_utils/accelerate_configs/cpu_2_processes.yaml"
    launch = installed.python, "-m", "accelerate.commands.launch", "--config_file", config
    done = installed(*launch, "-m", "rd3_utils", "train", *SHORT, "--out", "two")
    assert done.returncode == 0, done.stderr
    (path,) = installed.folder.glob("two/digits/*/*/*/*/seed0.json")
    assert json.loads(path.read_text())["environment"]["processes"] == 2
