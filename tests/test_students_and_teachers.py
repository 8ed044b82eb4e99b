"""Students: the field's networks to the parameter, reloaded bit for bit. Teachers: examined before they may label."""

import dataclasses
import json
import shutil

import pytest
import timm
import torch
from torch import nn

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.learning import evaluation, students, teachers, training

TEACHER = image_sets.EMBEDDED / "digits-teacher-convnet3"


def count(network):
    return sum(p.numel() for p in network.parameters()), sum(b.numel() for b in network.buffers())


@pytest.mark.parametrize(
    "name, size, classes, parameters, buffers",
    [  # NUS-HPC-AI-Lab/DD-Ranking b8b0966 and LINs-lab/RDED 3f6453d, counted from their code
        ("convnet3", 32, 10, 320_010, 0),
        ("convnet3_bn", 32, 10, 320_010, 771),
        ("convnet3", 32, 100, 504_420, 0),
        ("convnet4", 64, 200, 857_160, 0),
        ("convnet4_bn", 32, 10, 452_490, 1_028),
        ("convnet5_bn", 128, 10, 615_690, 1_285),
        ("convnet6_bn", 128, 10, 748_170, 1_542),
        ("convnet3", 64, 200, 1_938_120, 0),
        ("resnet18_cifar", 32, 10, 11_173_962, 9_620),
        ("resnet34_cifar", 32, 100, 21_328_292, 17_060),
        ("resnet50_cifar", 64, 200, 23_910_152, 53_173),
        ("resnet101_cifar", 32, 10, 42_512_970, 105_448),
    ],
)
def test_a_network_has_the_fields_parameters_and_buffers(name, size, classes, parameters, buffers):
    sized = {"img_size": size} if name.startswith("convnet") else {}
    assert count(timm.create_model(name, num_classes=classes, **sized)) == (parameters, buffers)


def test_a_small_image_resnet_keeps_the_resolution_at_its_stem():
    network = timm.create_model("resnet18_cifar", num_classes=10)
    assert (network.conv1.kernel_size, network.conv1.stride, network.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(network.maxpool, nn.Identity)
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_a_small_image_resnet_is_torchvisions_after_the_stem():
    """Same weights, same map: the blocks of timm's ResNet are those of torchvision's, names included."""
    import torchvision

    ours = timm.create_model("resnet18_cifar", num_classes=10).eval()
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(x), theirs.eval()(x), atol=1e-5)


def test_a_convnet_is_its_definition_written_out():
    network = timm.create_model("convnet2", num_classes=4, img_size=8).eval()
    x = y = torch.randn(3, 3, 8, 8)
    for k in (0, 4):
        x = nn.functional.conv2d(x, network.features[k].weight, network.features[k].bias, padding=1)
        x = nn.functional.instance_norm(x, weight=network.features[k + 1].weight, bias=network.features[k + 1].bias)
        x = nn.functional.avg_pool2d(x.relu(), 2)
    assert torch.allclose(network(y), network.classifier(x.flatten(1)), atol=1e-5)


@pytest.mark.parametrize("name", ["convnet3", "convnet2_bn", "resnet18", "mobilenetv2_100"])
def test_a_saved_student_reloads_bit_for_bit_with_timm(digits, tmp_path, name):
    network = students.create(name, digits, 7)
    students.save(network, tmp_path / "seed7", digits)
    again = timm.create_model(f"local-dir:{tmp_path / 'seed7'}", pretrained=True)
    mine, theirs = network.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert tuple(again.pretrained_cfg["mean"]) == digits.image.mean
    assert sorted(p.name for p in (tmp_path / "seed7").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "seed7" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_student_depends_on_its_seed_alone_and_leaves_the_global_seed_alone(digits):
    a = students.create("convnet3", digits, 1)
    state = torch.random.get_rng_state()
    b = students.create("convnet3", digits, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert teachers.weights_sha256(a) == teachers.weights_sha256(b)
    assert teachers.weights_sha256(students.create("convnet3", digits, 2)) != teachers.weights_sha256(a)


def test_synchronised_batch_norm_keeps_what_timm_folds_into_its_norms(digits, recipe, ten, monkeypatch):
    """timm's norms carry the activation; converted for several GPUs, a network is the same function."""
    monkeypatch.setattr(launch, "on_several_gpus", lambda accelerator: True)
    network = students.create("mobilenetv2_100", digits, 0).eval()
    x = torch.randn(2, 3, 8, 8)
    before = network(x)
    converted = training.with_batch_norm(recipe("rd3-v1", ten), network, None).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert [type(module).__name__ for module in converted.modules()].count("SyncBatchNormAct") > 10
    assert converted.state_dict().keys() == students.create("mobilenetv2_100", digits, 0).state_dict().keys()
    assert before.shape == (2, 10)


def test_at_64_pixels_and_below_resnet18_has_the_small_stem(digits):
    large = dataclasses.replace(digits, image=dataclasses.replace(digits.image, size=224))
    assert students.architecture("resnet18", digits) == "resnet18_cifar"
    assert students.architecture("resnet18", large) == "resnet18"


@pytest.mark.parametrize("name, wanted", [("convnet33", "did you mean 'convnet3"), ("resnt18", "did you mean 'resnet18'"),
                                          ("mobilnetv2_100", "did you mean 'mobilenetv2_100'")])  # fmt: skip
def test_an_unknown_student_is_named_with_the_nearest(digits, name, wanted):
    with pytest.raises(UserError, match=wanted):
        students.architecture(name, digits)


def test_a_network_too_deep_for_the_image_is_refused(digits):
    with pytest.raises(UserError, match="too small"):
        students.create("convnet5", digits, 0)


def test_the_embedded_teacher_has_its_stated_accuracy(digits, test_set):
    teacher = teachers.examined(teachers.load("default", digits), digits, test_set, launch.accelerator())
    assert teacher.top1 == 0.99


def test_an_ensemble_gives_the_mean_of_the_logits(digits, ten):
    good = teachers.load("default", digits)
    other = dataclasses.replace(good, network=students.create("convnet2", digits, 0).eval())
    x = torch.randn(4, 3, 8, 8)
    both = teachers.Ensemble([good, other], digits)(x)
    assert torch.allclose(both, (good.network(x) + other.network(x)) / 2)


def test_a_teacher_sees_images_in_its_own_normalisation(digits):
    teacher = teachers.load("default", digits)
    other = dataclasses.replace(teacher, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.rand(4, 3, 8, 8)

    def normalised(mean, std):
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    ours = teachers.Ensemble([other], digits)(normalised(digits.image.mean, digits.image.std))
    assert torch.allclose(ours, teacher.network(normalised(other.mean, other.std)), atol=1e-4)


def copied(tmp_path, **changes):
    shutil.copytree(TEACHER, tmp_path / "teacher")
    config = json.loads((TEACHER / "config.json").read_text())
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({**config, **changes}))
    return f"local-dir:{tmp_path / 'teacher'}"


def test_a_teacher_of_other_classes_is_refused(digits, tmp_path):
    with pytest.raises(UserError, match="knows classes 9, 8, 7"):
        teachers.load(copied(tmp_path, label_names=list("9876543210")), digits)


def test_a_teacher_with_another_number_of_classes_is_refused(digits, tmp_path):
    network = timm.create_model("convnet2", num_classes=7, img_size=8)
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    with pytest.raises(UserError, match="has 7 classes, digits has 10"):
        teachers.load(f"local-dir:{tmp_path}", digits)


@pytest.mark.parametrize("spoil", ["order", "normalisation", "untrained"])
def test_a_teacher_below_the_floor_may_not_label(digits, test_set, spoil):
    teacher = teachers.load("default", digits)
    if spoil == "order":
        teacher.network.classifier.weight.data = teacher.network.classifier.weight.data.roll(1, 0)
    if spoil == "normalisation":
        teacher = dataclasses.replace(teacher, mean=(-2.0,) * 3, std=(4.0,) * 3)
    if spoil == "untrained":
        teacher = dataclasses.replace(teacher, network=students.create("convnet3", digits, 0).eval())
    with pytest.raises(UserError, match="wanted at least 95.00 %"):
        teachers.examined(teacher, digits, test_set, launch.accelerator())


@pytest.mark.parametrize("source, wanted", [("convnet3x", "unknown teacher"), ("torchvision:resnet19", "did you mean 'resnet1"),
                                            ("local-dir:nowhere", "make one with accelerate launch"),
                                            ("torchvision:resnet18.V7", "unknown weights")])  # fmt: skip
def test_an_unknown_teacher_is_named(digits, source, wanted):
    with pytest.raises(UserError, match=wanted):
        teachers.load(source, digits)


def test_a_torchvision_teacher_is_torchvisions_network(tmp_path, monkeypatch):
    """Its published file, put where torchvision looks for it: the same logits, and torchvision's own normalisation."""
    import torchvision

    network = torchvision.models.squeezenet1_1().eval()
    weights = torchvision.models.get_model_weights("squeezenet1_1").IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1])
    loaded, mean, std = teachers.from_torchvision("squeezenet1_1")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.eval()(x), network(x))
    assert (mean, std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_accuracy_is_counted_over_the_whole_test_split(digits, test_set):
    teacher = teachers.load("default", digits).network
    scores = evaluation.accuracy(teacher, test_set, digits, launch.accelerator())
    x = (test_set.images.double() / 255 - digits.image.mean[0]) / digits.image.std[0]
    best = teacher(x.float()).argsort(1, descending=True)
    hits = best == test_set.labels[:, None]
    assert scores == {"top1": float(hits[:, 0].double().mean()), "top5": float(hits[:, :5].any(1).double().mean()),
                      "images_scored": 500}  # fmt: skip
    assert 0.9 < scores["top1"] < scores["top5"]


def test_top5_of_fewer_than_five_classes_is_one(digits, test_set):
    few = dataclasses.replace(digits, classes=("0", "1", "2"))
    rows = (test_set.labels < 3).nonzero().flatten()
    some = image_sets.make("x", test_set.images[rows], test_set.labels[rows], few.classes, "x")
    network = timm.create_model("convnet1", num_classes=3, img_size=8)
    assert evaluation.accuracy(network, some, few, launch.accelerator())["top5"] == 1.0
