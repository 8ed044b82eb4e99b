"""Students: from their seed alone, reloaded bit for bit. Teachers: of these classes, and examined before they may label."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import timm
import torch
import torchvision
from conftest import shaken
from safetensors.torch import load_file, save_file
from torch import nn

from rd3_utils import launch
from rd3_utils.data import embedded
from rd3_utils.data import images as image_sets
from rd3_utils.data.sources import NetworkSource
from rd3_utils.errors import UserError
from rd3_utils.learning import evaluation, students, teachers, training
from rd3_utils.protocols import benchmark as benchmarks

TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"


def alike(a, b):
    """Whether two tensors differ by rounding alone, and are no constants."""
    return float((a - b).detach().abs().max()) < 1e-4 * float(b.detach().std())


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_a_small_image_resnet_is_torchvisions_after_the_stem(depth):
    """Same weights, same map, whether batch norm sees the batch or its running statistics, which it moves alike."""
    ours = shaken(timm.create_model(f"resnet{depth}_cifar", num_classes=10))
    theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert alike(ours.train()(x), theirs.train()(x)) and alike(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("depth, norm", [(1, ""), (2, ""), (3, ""), (2, "_bn"), (3, "_bn")])
def test_a_convnet_is_its_definition_written_out(depth, norm):
    network = shaken(timm.create_model(f"convnet{depth}{norm}", num_classes=4, img_size=8))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def by_hand(x, training):
        for k in range(0, 4 * depth, 4):
            kernel, affine = network.features[k], network.features[k + 1]
            x = nn.functional.conv2d(x, kernel.weight, kernel.bias, padding=1)
            if norm:
                moving = affine.running_mean.clone(), affine.running_var.clone()
                x = nn.functional.batch_norm(x, *moving, affine.weight, affine.bias, training, momentum=0.1, eps=1e-5)
                statistics.append(moving)
            else:
                x = nn.functional.instance_norm(x, weight=affine.weight, bias=affine.bias, eps=1e-5)
            x = nn.functional.avg_pool2d(x.relu(), 2)
        return network.classifier(x.flatten(1))

    for mode in (True, False):
        statistics = []
        wanted = by_hand(images, mode)
        assert alike(network.train(mode)(images), wanted)
        for k, (mean, var) in enumerate(statistics):
            norms = network.features[4 * k + 1]
            assert torch.allclose(norms.running_mean, mean, rtol=1e-5) and torch.allclose(norms.running_var, var, rtol=1e-5)


@pytest.mark.parametrize("name", ["convnet3", "convnet2_bn", "resnet18", "mobilenetv2_100"])
def test_a_saved_student_reloads_bit_for_bit_with_timm(digits, tmp_path, name):
    network = students.create(name, digits, 7)
    students.save(network, tmp_path / "seed7", digits)
    again = timm.create_model(f"local-dir:{tmp_path / 'seed7'}", pretrained=True)
    mine, theirs = network.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert tuple(again.pretrained_cfg["mean"]) == digits.image.mean != digits.image.std
    assert tuple(again.pretrained_cfg["std"]) == digits.image.std
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
    network = shaken(students.create("mobilenetv2_100", digits, 0)).eval()
    x = torch.randn(2, 3, 8, 8)
    before = network(x)
    converted = training.with_batch_norm(recipe("rd3-v1", ten), network, None).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert [type(module).__name__ for module in converted.modules()].count("SyncBatchNormAct") > 10
    assert converted.state_dict().keys() == students.create("mobilenetv2_100", digits, 0).state_dict().keys()
    assert alike(converted(x), before)


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


def of_classes(benchmark, classes, titles=(), size=8):
    """The benchmark as if it had these classes, and images of `size` pixels."""
    return dataclasses.replace(
        benchmark, classes=tuple(classes), titles=tuple(titles), image=dataclasses.replace(benchmark.image, size=size)
    )


def saved(tmp_path, digits, names):
    """(source, network) of an untrained teacher whose outputs are called `names`; a number: so many, without names."""
    classes = range(names) if isinstance(names, int) else names
    network = students.create("convnet1", of_classes(digits, map(str, classes)), 0)
    if isinstance(names, int):
        timm.models.save_for_hf(network, tmp_path / "teacher", safe_serialization=True)
    else:
        students.save(network, tmp_path / "teacher", of_classes(digits, names))
    return f"local-dir:{tmp_path / 'teacher'}", network


@pytest.mark.parametrize("name", ["imagenette", "imagewoof", "imagenet-10", "imagenet-100"])
def test_a_teacher_of_imagenet_teaches_a_part_of_it(digits, tmp_path, name):
    """Its logits of the benchmark's classes, found by WordNet id whatever the order of its outputs."""
    part = benchmarks.load(name)
    part = of_classes(digits, part.classes, part.titles)  # its classes, and images in the normalisation of this teacher
    names = sorted(benchmarks.load("imagenet-1k").classes, key=lambda name: name[::-1])
    source, network = saved(tmp_path, digits, names)
    teacher = teachers.load(source, part)
    x = torch.randn(4, 3, 8, 8)
    by_hand = torch.stack([network(x)[:, names.index(wordnet_id)] for wordnet_id in part.classes], 1)
    assert torch.allclose(teachers.Ensemble([teacher, teacher], part)(x), by_hand, atol=1e-6)
    assert teacher.describe()["classes"] == 1000


def test_a_thousand_nameless_outputs_are_imagenets_in_the_order_of_wordnet_ids(digits, tmp_path):
    imagenet, nette = benchmarks.load("imagenet-1k"), benchmarks.load("imagenette")
    assert list(imagenet.classes) == sorted(imagenet.classes)
    source, network = saved(tmp_path, digits, 1000)
    teacher = teachers.load(source, of_classes(nette, nette.classes))
    assert teacher.columns == (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # torchvision's, tench to parachute
    whole = teachers.load(source, of_classes(imagenet, imagenet.classes))
    assert whole.columns is None and "classes" not in whole.describe()
    with pytest.raises(UserError, match="has 1000 classes, digits has 10; give a teacher of this benchmark"):
        teachers.load(source, digits)


def test_a_teacher_may_name_its_classes_by_their_titles(digits, tmp_path):
    zoo = of_classes(digits, ["n1", "n2"], ["cat", "dog"])
    assert teachers.load(saved(tmp_path / "a", digits, ["cat", "dog"])[0], zoo).columns is None
    assert teachers.load(saved(tmp_path / "b", digits, ["dog", "eel", "cat"])[0], zoo).columns == (2, 0)


def test_a_teacher_of_the_same_classes_in_another_order_is_the_same_teacher(digits, test_set, tmp_path):
    source = copied(tmp_path, label_names=list("9876543210"))
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights.update({key: value.flip(0).contiguous() for key, value in weights.items() if key.startswith("classifier")})
    save_file(weights, tmp_path / "teacher" / "model.safetensors")
    teacher, straight = teachers.load(source, digits), teachers.load("default", digits)
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(teachers.Ensemble([teacher], digits)(x), straight.network(x), atol=1e-6)
    teacher = teachers.examined(teacher, digits, test_set, launch.accelerator())
    assert (teacher.top1, teacher.columns) == (0.99, tuple(range(9, -1, -1)))


def test_columns_are_part_of_who_labels_and_no_columns_change_nothing(digits):
    teacher = teachers.load("default", digits)
    before = hashlib.sha256(f"single\n{teacher.sha256} {teacher.mean} {teacher.std}".encode()).hexdigest()
    assert teachers.teachers_id([teacher], "mean") == before
    assert list(teacher.describe()) == ["source", "commit", "architecture", "sha256", "top1"]
    turned = [dataclasses.replace(teacher, columns=columns) for columns in (tuple(range(9, -1, -1)), tuple(range(10)))]
    assert len({before, *(teachers.teachers_id([each], "mean") for each in turned)}) == 3


def test_a_teacher_of_other_classes_is_refused(digits, tmp_path):
    with pytest.raises(
        UserError, match=r"knows classes 10, 9, 8 \.\.\. \(10\), digits has 0, 1, 2 \.\.\. \(10\), of which '0'"
    ):
        teachers.load(copied(tmp_path, label_names=[str(k) for k in range(10, 0, -1)]), digits)


def test_a_class_that_two_outputs_answer_for_is_refused(digits, tmp_path):
    source, _ = saved(tmp_path, digits, ["crane", "dog", "crane"])
    with pytest.raises(UserError, match="of which 'crane' is not one of the teacher's"):
        teachers.load(source, of_classes(digits, ["crane", "dog"]))


def test_names_that_are_not_as_many_as_outputs_are_refused(digits, tmp_path):
    with pytest.raises(UserError, match="names 11 classes and has 10 outputs"):
        teachers.load(copied(tmp_path, label_names=list("0123456789a")), digits)


def test_names_that_are_no_list_are_refused(digits, tmp_path):
    with pytest.raises(UserError, match="label_names in its config.json are 5"):
        teachers.load(copied(tmp_path, label_names=5), digits)


def test_names_may_be_given_by_index_with_gaps(digits, tmp_path):
    source, _ = saved(tmp_path, digits, list("abcd"))
    config = students.read_timm_config(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({**config, "label_names": {"1": "dog", "3": "cat"}}))
    assert teachers.load(source, of_classes(digits, ["cat", "dog"])).columns == (3, 1)


def test_a_teacher_with_another_number_of_classes_is_refused(digits, tmp_path):
    with pytest.raises(UserError, match="has 7 classes, digits has 10"):
        teachers.load(saved(tmp_path, digits, 7)[0], digits)


def test_a_damaged_teacher_is_refused(digits, tmp_path):
    source = copied(tmp_path)
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"not what it was")
    with pytest.raises(UserError, match=f"teacher {source} cannot be loaded: SafetensorError"):
        teachers.load(source, digits)


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


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_a_torchvision_teacher_is_torchvisions_network(tmp_path, monkeypatch, name):
    """Its published file, put where torchvision looks for it: the logits and the normalisation that torchvision gives.

    googlenet's builder is told, with these weights, to undo the normalisation.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    network = torchvision.models.get_model(name, **teachers.builder_arguments(name, weights))
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1])
    loaded, mean, std = teachers.from_torchvision(NetworkSource("torchvision", name))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.eval()(x), torchvision.models.get_model(name, weights=weights).eval()(x))
    assert (mean, std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_torchvision_transformer_is_built_for_the_size_of_its_weights():
    weights = torchvision.models.get_model_weights("vit_b_16").IMAGENET1K_SWAG_E2E_V1
    with torch.device("meta"):
        network = torchvision.models.get_model("vit_b_16", **teachers.builder_arguments("vit_b_16", weights))
    assert sum(p.numel() for p in network.parameters()) == weights.meta["num_params"]


def test_a_network_that_is_no_classifier_is_no_torchvision_teacher():
    with pytest.raises(UserError, match="unknown torchvision network 'fcn_resnet50'"):
        teachers.from_torchvision(NetworkSource("torchvision", "fcn_resnet50"))


@pytest.mark.parametrize("name", ["default", "convnet2_bn"])
def test_accuracy_is_counted_over_the_whole_test_split(digits, test_set, name):
    """Of a good network and of one that knows nothing, found in training mode and left so, its running statistics as well."""
    known = name == "default"
    network = teachers.load(name, digits).network if known else shaken(students.create(name, digits, 0)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    score = evaluation.accuracy(network, test_set, digits, launch.accelerator())
    assert network.training is not known and all(torch.equal(before[key], v) for key, v in network.state_dict().items())
    x = (test_set.images.double() / 255 - digits.image.mean[0]) / digits.image.std[0]
    hits = network.eval()(x.float()).argsort(1, descending=True) == test_set.labels[:, None]
    by_rank = [float(hits[:, :k].any(1).double().mean()) for k in (1, 4, 5, 6)]
    assert score == evaluation.Score(top1=by_rank[0], top5=by_rank[2], images_scored=500)
    assert 0.9 < by_rank[0] < by_rank[2] if known else 0.02 < by_rank[0] < by_rank[1] < by_rank[2] < by_rank[3]


def test_top5_of_fewer_than_five_classes_is_one(digits, test_set):
    few = dataclasses.replace(digits, classes=("0", "1", "2"))
    rows = (test_set.labels < 3).nonzero().flatten()
    some = image_sets.make("x", test_set.images[rows], test_set.labels[rows], few.classes, "x")
    network = timm.create_model("convnet1", num_classes=3, img_size=8)
    assert evaluation.accuracy(network, some, few, launch.accelerator()).top5 == 1.0


@pytest.mark.parametrize("name", ["imagenette", "imagewoof", "imagenet-10", "imagenet-100", "tiny-imagenet"])
@pytest.mark.parametrize("called", ["classes", "titles"])
def test_an_imagenet_teacher_answers_for_the_right_class_by_id_or_by_title(name, called):
    whole, benchmark = benchmarks.load("imagenet-1k"), benchmarks.load(name)
    columns = teachers.columns_of(list(getattr(whole, called)), 1000, "x", benchmark)
    assert [whole.classes[k] for k in columns] == list(benchmark.classes)
