"""Real processes: what accelerate launch starts gives the same labels and the same students as one process."""

import json
import os
import signal
import subprocess

import pytest
import torch
import warm
from conftest import PROJECT
from safetensors.torch import load_file

from rd3_utils.data import views
from rd3_utils.learning import students, training
from rd3_utils.protocols import protocol as protocols

SHORT = "--set", "training.epochs=20"


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_of(folder, pattern="**/seed0.json"):
    (path,) = folder.glob(pattern)
    return json.loads(path.read_text())


def ok(done):
    assert done.code == 0, done.err
    return done


def test_two_processes_write_the_same_label_shards_as_one_bit_for_bit(launched, tmp_path):
    ok(launched("cpu.yaml", "generate_soft_labels.py", "--out", "one"))
    ok(launched("cpu_2_processes.yaml", "generate_soft_labels.py", "--out", "two", cold=True))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 17 and one == two


@pytest.mark.parametrize("processes", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_several_processes_train_the_same_student_as_one(launched, tmp_path, processes):
    """rd3-v1's batch of 50 from one store: 20 steps on 1 and on 2 or 3 processes (shares 25 + 25 or 16 + 17 + 17).

    convnet2's losses and weights agree within 1e-5, relatively. convnet3 normalises maps of 2x2 pixels on digits: once a
    ReLU flips there, the last bit of a sum grows to some 1e-4 of the loss (1e-7 in absolute terms) within these steps.
    """
    what = "--distilled", "digits-dm-ipc10", "--teacher", "default", "--set", "training.epochs=10"
    losses, weights = {}, {}
    for n in (1, processes):
        config, out = "cpu.yaml" if n == 1 else "cpu_2_processes.yaml", tmp_path / f"out{n}"
        ok(launched(config, "train_student.py", *what, "--student", "convnet2,convnet3", "--out", out, processes=n))
        for student in ("convnet2", "convnet3"):
            run = run_of(out, f"**/{student}/distilled-soft/seed0.json")
            assert run["environment"]["processes"] == n and run["recipe"]["training"]["batch_size"] == 50
            assert (run["images_scored"], run["recipe"]["steps"]) == (500, 20)
            losses[student, n] = [entry["loss"] for entry in run["history"]]
        tensors = load_file(next(out.rglob("convnet2/distilled-soft/seed0/model.safetensors")))
        weights[n] = torch.cat([tensor.flatten() for tensor in tensors.values()])
    assert len(list((tmp_path / "soft_labels").rglob("index.json"))) == 1
    assert losses["convnet2", processes] == pytest.approx(losses["convnet2", 1], rel=1e-5, abs=0)
    assert losses["convnet3", processes] == pytest.approx(losses["convnet3", 1], rel=1e-3, abs=0)
    assert float((weights[processes] - weights[1]).norm() / weights[1].norm()) < 1e-5


def test_a_launch_that_silently_lost_its_processes_is_stopped(tmp_path):
    command = [warm.python(), "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run([*command, str(PROJECT / "train_student.py"), "--dry-run"], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})  # fmt: skip
    assert done.returncode != 0 and "error: the launch asked for several processes but started one" in done.stderr


def test_bf16_is_recorded_and_kept_apart(launched, tmp_path):
    ok(launched("single_gpu_bf16.yaml", "train_student.py", "--arms", "distilled-hard", *SHORT))
    (path,) = tmp_path.glob("results/digits/*/*/convnet3-bf16/distilled-hard/seed0.json")
    assert json.loads(path.read_text())["environment"]["precision"] == "bf16"


def test_a_multi_gpu_file_runs_on_a_machine_without_gpus(launched, tmp_path, digits, ten):
    """One step of ten digits on two processes; under local batch norm, what is kept has the mean of their statistics."""
    knobs = ["training.epochs=1", "training.batch_norm=local"]
    what = "--arms", "distilled-hard", "--distilled", "random:ipc=1,seed=0", "--student", "convnet2_bn"
    words = [word for knob in knobs for word in ("--set", knob)]
    ok(launched("ddp_fp16.yaml", "train_student.py", *what, *words, processes=2))
    run = run_of(tmp_path)
    assert (run["environment"]["precision"], run["environment"]["processes"]) == ("fp32", 2)
    recipe = protocols.load("rd3-v1").override(knobs).resolve(digits, "convnet2_bn", 1, 10, "hard")
    drawn, statistics = views.draw(recipe, 0, 0), []
    (rows,) = training.batches(recipe, drawn.order, 0, 0)
    for mine in (rows[:5], rows[5:]):
        network = students.create("convnet2_bn", digits, 0).train()
        network(views.apply(ten.images, drawn, mine, recipe.mean, recipe.std))
        statistics.append({name: b for name, b in network.named_buffers() if b.is_floating_point()})
    kept = load_file(next(tmp_path.rglob("seed0/model.safetensors")))
    for name, first in statistics[0].items():
        second = statistics[1][name]
        assert torch.allclose(kept[name], (first + second) / 2, atol=1e-6) and not torch.allclose(first, second, atol=1e-3)


def test_two_processes_train_online_the_student_of_a_store(launched, tmp_path):
    """Each labels whole epochs by itself; losses and weights are those of the stored labels, to the bit."""
    what = "--teacher", "default", "--distilled", "digits-dm-ipc10", "--views-seed", "2", "--set", "training.epochs=6"
    ok(launched("cpu_2_processes.yaml", "train_student.py", *what, "--out", "online", "--online"))
    assert not list((tmp_path / "soft_labels").rglob("*.safetensors"))
    ok(launched("cpu_2_processes.yaml", "train_student.py", *what, "--out", "stored"))
    online, stored = run_of(tmp_path / "online"), run_of(tmp_path / "stored")
    assert online["environment"]["processes"] == 2 and online["labels"]["online"] and "online" not in stored["labels"]
    assert online["history"] == stored["history"] and online["top1"] == stored["top1"]
    weights = [next((tmp_path / out).rglob("seed0/model.safetensors")).read_bytes() for out in ("online", "stored")]
    assert weights[0] == weights[1]


DIES = """
import os, signal, train_student
from rd3_utils import launch
from rd3_utils.learning import fitting, training
fitting.CHECKPOINT_SECONDS, save, left = 0, training.save_checkpoint, [int(os.environ["DIES_AFTER"])]
def saves(*state):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # the epoch that just ended is lost
    left[0] -= 1
    save(*state)
training.save_checkpoint = saves
launch.run(train_student.main, train_student.parse())
"""


def killed_and_again(tmp_path, options, variables=()):
    """Train one student undisturbed, and once more killed an epoch after its third checkpoint and started again: same bits."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **dict(variables)}

    def train(out, dies_after):
        return subprocess.run([warm.python(), "-c", DIES, *options, "--out", out], cwd=tmp_path, text=True, timeout=200,
                              capture_output=True, env={**environment, "DIES_AFTER": str(dies_after)})  # fmt: skip

    whole = train("whole", -1)
    assert whole.returncode == 0, whole.stderr
    killed = train("killed", 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "killed").rglob("*.checkpoint")) and not list((tmp_path / "killed").rglob("seed0.json"))
    again = train("killed", -1)
    assert again.returncode == 0, again.stderr
    one, two = run_of(tmp_path / "whole"), run_of(tmp_path / "killed")
    assert one["history"] == two["history"] and one["top1"] == two["top1"]
    weights = [next((tmp_path / out).rglob("model.safetensors")).read_bytes() for out in ("whole", "killed")]
    assert weights[0] == weights[1] and not list(tmp_path.rglob("*.checkpoint"))
    return one


@pytest.mark.parametrize("labels", [("--arms", "distilled-hard", "--set", "training.epochs=12"),
                                    ("--teacher", "default", "--online", "--set", "training.epochs=12")])  # fmt: skip
def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(tmp_path, labels):
    killed_and_again(tmp_path, labels)
