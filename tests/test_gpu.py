"""On a GPU: the views of the CPU, the same bits of the same command, stored as online labels, every precision.

Skipped where there is none. `python -m pytest tests/test_gpu.py` takes a few minutes.
"""

import json

import pytest
import torch
from test_launch import killed_and_again, ok
from test_views import MEAN, STD, noise

from rd3_utils import launch
from rd3_utils.data import views
from rd3_utils.learning import students

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
WHAT = "--distilled", "digits-dm-ipc10", "--student", "resnet18", "--set", "training.epochs=6"


def trained(folder):
    """(the Run, the bytes of the network) of the one student under `folder`."""
    (path,) = folder.rglob("seed0.json")
    return json.loads(path.read_text()), (path.with_suffix("") / "model.safetensors").read_bytes()


@pytest.mark.parametrize("overrides", [("views.crop_scale=[0.08, 1]",), ("views.crop=pad", "views.padding=0.125"),
                                       ("views.patch_shuffle=2", "views.crop_scale=[0.5, 1]"), ("views.mix=mixup",),
                                       ("views.mix=none", "views.crop=none"), ("views.randaugment=2",),
                                       ("views.color_jitter=0.4", "views.lighting=0.1")])  # fmt: skip
@pytest.mark.parametrize("size", [32, 224])
def test_views_have_the_bits_of_the_cpu(sized, size, overrides):
    n = 30
    images, v = noise(n, size), views.draw(sized(n, size, *overrides), 0, 3)
    here = views.apply(images, v, torch.arange(n), MEAN, STD)
    for held in (images, images.to(DEVICE)):  # large sets stay in the machine's memory
        there = views.apply(held, v, torch.arange(n), MEAN, STD, DEVICE)
        assert there.device.type == DEVICE and torch.equal(there.cpu(), here)


@pytest.mark.parametrize("config", ["single_gpu_bf16.yaml", "ddp_fp16.yaml"])
def test_the_same_command_gives_the_same_bits_and_online_labels_those_of_a_store(launched, tmp_path, config):
    what = "train_student.py", "--teacher", "default", *WHAT
    for out, more in (("one", ()), ("two", ()), ("online", ("--online",))):
        ok(launched(config, *what, "--out", out, *more, processes=1))
    (one, weights), (two, again), (online, apart) = (trained(tmp_path / out) for out in ("one", "two", "online"))
    assert one["environment"]["precision"] == ("bf16" if "bf16" in config else "fp16")
    assert "cuda" in one["environment"]["devices"] and one["labels"]["device"] == "cuda"
    assert one["history"] == two["history"] == online["history"]
    assert one["top1"] == two["top1"] == online["top1"] and weights == again == apart


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(tmp_path, precision):
    """fp16: the gradient scaler goes on where it was, too."""
    options = "--arms", "distilled-hard", "--student", "convnet3_bn", "--set", "training.epochs=40"
    run = killed_and_again(tmp_path, options, {"ACCELERATE_MIXED_PRECISION": precision})
    assert run["environment"]["precision"] == precision and "cuda" in run["environment"]["devices"]


def test_fp32_on_a_gpu_follows_the_cpu(digits, ten):
    """One forward and backward pass of a ResNet-18 as launched: no TF32 where a Run says fp32."""
    launch.accelerator()
    x = (ten.images / 255 - digits.image.mean[0]) / digits.image.std[0]
    found = []
    for device in ("cpu", DEVICE):
        network = students.create("resnet18_cifar", digits, 0).to(device).train()
        loss = torch.nn.functional.cross_entropy(network(x.to(device)), ten.labels.to(device))
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in network.parameters()])))
    (loss, gradient), (other, another) = found
    assert other == pytest.approx(loss, rel=1e-5) and (gradient - another).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("method", ["sre2l", "rded"])
def test_images_are_made_with_the_same_bits_every_time(launched, tmp_path, method, script):
    ok(launched("single_gpu_bf16.yaml", "train_student.py", "--protocol", "teacher-v1", "--arms", "full-hard", "--distilled",
                "full", "--student", "convnet2_bn", "--out", "teacher"))  # fmt: skip
    (teacher,) = (path.parent for path in (tmp_path / "teacher").rglob("model.safetensors"))
    more = ("--iterations", "30") if method == "sre2l" else ()
    for out in ("one", "two"):
        done = script("rd3_utils", "synthesize", method, "--benchmark", "digits", "--ipc", "2", "--teacher",
                      f"local-dir:{teacher}", "--out", out, *more)  # fmt: skip
        ok(done)
    made = [json.loads((tmp_path / out / "distilled.json").read_text())["fingerprint"] for out in ("one", "two")]
    assert made[0] == made[1]
