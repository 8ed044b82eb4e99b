"""What is no number is not scored: a network whose weights or outputs are not finite diverged, whatever its last loss."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rd3_utils import launch
from rd3_utils.data import embedded
from rd3_utils.errors import TagTaken, UserError
from rd3_utils.learning import features, students, teachers, training
from rd3_utils.synthesis import dm

LAST = "--protocol", "hard-label-v1", "--student", "convnet1", "--set", "training.epochs=1"  # its only step is the last
TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"


def spoilt(tmp_path, value, name="classifier.weight"):
    """The embedded teacher's folder with one number replaced."""
    folder = tmp_path / "spoilt"
    shutil.copytree(TEACHER, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


WEIGHTS = "--set", "training.weight_decay=1e30"  # with the rate below, the step itself leaves float32's range


@pytest.mark.parametrize("knobs, wanted", [((), "outputs are no"), (WEIGHTS, "weights are no"),
                                           ((*WEIGHTS, "--set", "training.ema_decay=0.9"), "weights are no")])  # fmt: skip
def test_a_student_that_the_last_step_made_no_number_has_no_run(script, tmp_path, knobs, wanted):
    """The loss is computed before the step, so every loss of the history is finite."""
    done = script("train_student", *LAST, "--set", "training.learning_rate=1e38", *knobs)
    assert done.code == 2 and done.err.count("error:") == 1, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert f"convnet1 hard-label-v1 seed 0: its {wanted} finite numbers" in line
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_a_rate_that_diverges_in_the_last_step_is_no_candidate(script, tmp_path):
    done = script("train_student", *LAST, "--distilled", "random:ipc=5", "--set", "training.learning_rates=[0.01, 1e38]")
    assert done.code == 0, done.err
    (run,) = [json.loads(path.read_text()) for path in tmp_path.rglob("seed0.json")]
    tried = {one["learning_rate"]: one["top1"] for one in run["learning_rate_search"]["candidates"]}
    assert tried[1e38] is None and tried[0.01] > 0 and run["learning_rate_search"]["learning_rate"] == 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_and_a_student_with_a_weight_that_is_no_number_are_not_read(digits, tmp_path, value):
    folder = spoilt(tmp_path, value)
    for load in (lambda: teachers.load(f"local-dir:{folder}", digits), lambda: features.load_frozen(str(folder))):
        with pytest.raises(training.Diverged, match=r"weights are no finite numbers \(the first in classifier.weight\)"):
            load()


def test_a_teacher_whose_outputs_are_no_numbers_is_neither_examined_nor_labels(digits, test_set, tmp_path):
    """Every weight is finite, and their sums are not."""
    teacher = teachers.load("default", digits)
    teacher.network.classifier.weight.data.fill_(3e38)
    with pytest.raises(training.Diverged, match="teacher local-dir:embedded/.*: its outputs are no finite numbers"):
        teachers.examined(teacher, digits, test_set, launch.accelerator())


def test_features_of_a_network_of_huge_weights_are_refused(digits, ten):
    network = students.create("convnet1", digits, 0)
    for weight in network.parameters():
        weight.data.fill_(3e38)
    frozen = features.Frozen(network, "x", None, "convnet1", 8, digits.image.mean, digits.image.std)
    with pytest.raises(training.Diverged, match="not all finite"):
        features.extract(frozen, ten.images, torch.device("cpu"))


def test_buffers_count_and_whole_numbers_do_not(digits):
    network = students.create("convnet3_bn", digits, 0)
    assert training.not_finite(network) is None
    name = next(name for name, buffer in network.named_buffers() if name.endswith("running_var"))
    network.get_buffer(name)[1] = float("nan")
    with pytest.raises(training.Diverged, match=f"mine: .*{name}"):
        training.check_finite(network, "mine")


@pytest.mark.parametrize("spoil", ["network", "average"])
def test_a_checkpoint_of_no_numbers_is_neither_written_nor_resumed(digits, ten, recipe, tmp_path, spoil):
    of = recipe("rd3-v1", ten, "training.ema_decay=0.9", student="convnet1")
    network = students.create("convnet1", digits, 0)
    learner = training.Learner(network, network, training.optimizer(of, network), None, training.moving_average(of, network))
    broken = getattr(learner, spoil)
    path = tmp_path / "x.checkpoint"

    def save():
        training.save_checkpoint(path, learner, {}, 0, 1.0, [])

    save()
    state = torch.load(path, weights_only=True)
    path.unlink()
    weight = next(broken.parameters()).data
    weight.view(-1)[0] = float("nan")
    save()
    assert not path.exists()
    next(value for value in state[spoil].values() if value.is_floating_point() and value.ndim)[0] = float("nan")
    torch.save(state, path)
    with pytest.raises(UserError, match="x.checkpoint, of .* no finite numbers; remove that file"):
        training.load_checkpoint(path, learner, {})


@pytest.mark.parametrize("kind", [training.Diverged, TagTaken, UserError])
def test_an_error_of_another_process_is_raised_here_with_its_class(monkeypatch, kind):
    """So a candidate that diverged in one process counts as diverged in all."""
    two = SimpleNamespace(num_processes=2)
    monkeypatch.setattr(launch, "gather_object", lambda mine: [*mine, (kind, "there")])
    with pytest.raises(UserError, match="there") as caught:
        launch.raise_on_all(two, lambda: None)
    assert type(caught.value) is kind
    monkeypatch.setattr(launch, "gather_object", lambda mine: [*mine, None])
    launch.raise_on_all(two, lambda: None)


ONE_SEES_IT = """
import os, sys, torch
from rd3_utils import launch
from rd3_utils.data import images
from rd3_utils.learning import evaluation, students, training
from rd3_utils.protocols import benchmark

def main(how):
    accelerator, digits = launch.accelerator(), benchmark.load("digits")
    network, test = students.create("convnet1", digits, 0), images.test_split(digits)
    if how == "weights" and accelerator.process_index == 1:
        network.classifier.weight.data[0, 0] = float("nan")
    if how == "outputs":  # of one image alone, in one process
        rows, honest = iter(range(10)), network.forward
        network.forward = lambda x: honest(x) * (float("inf") if accelerator.process_index == 1 else 1)
    try:
        evaluation.accuracy(network, test, digits, accelerator, whose="mine")
    except training.Diverged as error:
        os.write(1, f"diverged {accelerator.process_index} {error}\\n".encode())  # in one piece: both write to one pipe
        raise

launch.run(main, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["weights", "outputs"])
def test_processes_that_see_numbers_stop_with_the_one_that_does_not(launched, tmp_path, how):
    (tmp_path / "one.py").write_text(ONE_SEES_IT)
    done = launched("cpu_2_processes.yaml", tmp_path / "one.py", how)
    assert done.code != 0 and "Traceback (most recent call last):\n  File" not in done.err.partition("error: mine")[0]
    said = sorted(line for line in done.out.splitlines() if line.startswith("diverged"))
    assert [line.split()[1] for line in said] == ["0", "1"] and all(f"its {how} are no" in line for line in said), done.err


def test_images_that_are_no_numbers_are_not_made(script, tmp_path, monkeypatch):
    """Rounded to eight bits they would be black squares."""
    monkeypatch.setattr(dm, "LEARNING_RATE", 1e38)
    done = script("rd3_utils", "synthesize", "dm", "--ipc", "1", "--iterations", "2", "--student", "convnet1", "--out", "made")
    assert done.code == 2 and "error: dm: the images are no finite numbers" in done.err and not (tmp_path / "made").exists()
