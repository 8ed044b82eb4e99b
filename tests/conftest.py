"""What tests share: the embedded benchmark, small recipes, and two ways to run a script: in this process, or launched."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
from safetensors import safe_open
from safetensors.torch import load_file, save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests that need a Hub start one and give its address to a child process
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, soft_labels, tables
from rd3_utils.learning import labelling, students
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols

PROJECT = Path(__file__).parents[1]
CONFIGS = PROJECT / "accelerate_configs"


def pytest_unconfigure():
    warm.end()


def shaken(network):
    """The network with a number of its own in every weight and running statistic: no branch, norm or bias does nothing."""
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            width = 0.6 if tensor.ndim < 2 else 0.06
            tensor += width * (torch.rand(tensor.shape, generator=generator) - 0.5)
    return network


@pytest.fixture(scope="session")
def digits():
    return benchmarks.load("digits")


@pytest.fixture(scope="session")
def train(digits):
    return image_sets.of_table(tables.real(digits, "train"))


@pytest.fixture(scope="session")
def select(digits):
    """select("random:ipc=1,seed=0") -> ImageSet."""
    table = tables.real(digits, "train")
    return lambda source: selections.select(source, digits, lambda: table)


@pytest.fixture(scope="session")
def test_set(digits):
    return image_sets.test_split(digits)


@pytest.fixture(scope="session")
def second(digits, train, tmp_path_factory):
    """local-dir: of a ConvNet-2 with batch norm, trained on the digits for a few seconds."""
    network = students.create("convnet2_bn", digits, 0).train()
    x = (train.images / 255 - digits.image.mean[0]) / digits.image.std[0]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for rows in torch.randperm(len(x), generator=generator).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), train.labels[rows]).backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("teachers") / "convnet2_bn"
    students.save(network.eval(), folder, digits)
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The folder of what forging.py changes: labels, results, a pushed repo, an image set."""
    from forging import made_once

    return made_once(tmp_path_factory.mktemp("forgeries"))


@pytest.fixture(scope="session")
def ten(select):
    """Ten random digits, one of each class."""
    return select("random:ipc=1,seed=0")


@pytest.fixture
def recipe(digits):
    """recipe("rd3-v1", images, "training.epochs=3", ...) -> Recipe."""

    def make(name, images, *overrides, student="convnet3", labels="soft"):
        protocol = protocols.load(name).override(overrides)
        return protocol.resolve(digits, student, images.nominal_ipc, len(images), labels)

    return make


@pytest.fixture
def sized(digits):
    """sized(images, size, "views.crop=pad", ...) -> a Recipe at any size."""

    def make(n, size, *overrides):
        enlarged = dataclasses.replace(digits, image=dataclasses.replace(digits.image, size=size, mirror=True))
        return protocols.load("rd3-v1").override(overrides).resolve(enlarged, "convnet3", 1, n, "soft")

    return make


def run_script(folder, name, *arguments):
    """code, out, err of a script's main() run in this process, in `folder`."""
    module = importlib.import_module("rd3_utils.__main__" if name == "rd3_utils" else name)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            launch.run(module.main, module.parse())
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture
def script(tmp_path):
    """script("train_student", "--dry-run", ...) -> code, out, err of main() run in this process, in an empty folder."""
    return lambda name, *arguments: run_script(tmp_path, name, *arguments)


@pytest.fixture
def launched(tmp_path):
    """launched("cpu.yaml", "train_student.py", ...) -> the finished process of a real accelerate launch, in tmp_path.

    All its processes are forked from one that has torch (warm.py); with `cold=True` each starts as a user's does.
    """

    def run(config, name, *arguments, environment=(), processes=None, wait=True, cold=False):
        python = sys.executable if cold else warm.python()
        command = [python, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
        command += ["--num_processes", str(processes)] if processes else []
        command += [str(PROJECT / name), *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(PROJECT), **dict(environment)}
        started = subprocess.Popen(
            command, cwd=tmp_path, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if not wait:
            return started
        out, err = started.communicate(timeout=400)
        return SimpleNamespace(code=started.returncode, out=out, err=err)

    return run


KNOBS = {
    "views.mix": "mixup", "views.randaugment": "2", "views.color_jitter": "0.4", "views.lighting": "0.1",
    "views.dsa": "color_crop", "views.patch_shuffle": "2", "views.crop_scale": "[0.3, 1.0]", "training.epochs": "100",
}  # fmt: skip


def store_of(images, digits, test_set, root, overrides, label_dtype="fp16", sources=("default",)):
    """(folder, recipe) of a finished store, of the embedded teacher if of no other."""
    recipe = protocols.load("rd3-v1").override([f"{key}={value}" for key, value in overrides.items()])
    recipe = recipe.resolve(digits, "convnet3", images.ipc, len(images), "soft")
    accelerator = launch.accelerator()
    found = labelling.load_teachers(sources, recipe, digits)
    plan = labelling.plan_store(images, recipe, found, 0, accelerator.device, labelling.StoreFormat(label_dtype=label_dtype))
    labelling.make_labels(root, labelling.LabellingTask(plan, images, recipe, found, digits), test_set, accelerator)
    return root, recipe


@pytest.fixture(scope="session")
def stores(ten, digits, test_set, select, tmp_path_factory):
    """{kind: (folder, recipe)} of stores of 100 epochs of ten images: rd3-v1's views, every operation; and of a hundred."""
    root = tmp_path_factory.mktemp("stores")
    plain = store_of(ten, digits, test_set, root / "plain", {"training.epochs": "100"})
    hundred = store_of(select("random:ipc=10,seed=0"), digits, test_set, root / "hundred", {"training.epochs": "60"})
    return {"plain": plain, "all": store_of(ten, digits, test_set, root / "all", KNOBS, "u8"), "hundred": hundred}


def forge_shards(folder, change, only=None):
    """`change(tensors, first)` changes every shard (or `only` one) of the store in `folder`, which is then signed again."""
    index = json.loads((folder / "index.json").read_text())
    for entry in (one for one in index["shards"] if only in (None, one["file"])):
        path = folder / entry["file"]
        with safe_open(path, "pt") as shard:
            about = shard.metadata()
        tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
        tensors = change(tensors, entry["epochs"][0]) or tensors
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, about)
        entry |= {"bytes": path.stat().st_size, "sha256": soft_labels.file_sha256(path)}
        entry["tensors"] = soft_labels.offsets(path)
    (folder / "index.json").write_text(json.dumps(index))


@pytest.fixture
def forged(stores, tmp_path):
    """forged(kind, change) -> (folder, recipe) of a copy; `change(tensors, first)` changes every shard, then signed again."""

    def forge(kind, change):
        where, recipe = stores[kind]
        copy = shutil.copytree(where, tmp_path / "forged")
        forge_shards(copy, change)
        return copy, recipe

    return forge
