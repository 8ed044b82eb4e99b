"""Benchmark files: classes, titles and citations, held against timm's list of ImageNet-1K's classes and against one another."""

import re

import datasets
import pytest
import timm
from timm.data import ImageNetInfo

from rd3_utils.data import classes
from rd3_utils.errors import UserError
from rd3_utils.learning import students
from rd3_utils.protocols import benchmark as benchmarks

COUNTS = {
    "cifar10": 10, "cifar100": 100, "digits": 10, "imagenet-10": 10, "imagenet-100": 100, "imagenet-1k": 1000,
    "imagenette": 10, "imagewoof": 10, "tiny-imagenet": 200,
}  # fmt: skip
IMAGENET = [name for name in COUNTS if name.startswith("image") or name == "tiny-imagenet"]
OFTEN = [name for name in IMAGENET if name not in ("imagenette", "imagewoof")]  # 50 test images in every class

IMAGENET_1K = ImageNetInfo()


@pytest.fixture(params=COUNTS)
def benchmark(request):
    return benchmarks.load(request.param)


@pytest.fixture(params=IMAGENET)
def imagenet(request):
    return benchmarks.load(request.param)


def synonyms(title):
    return [word.strip().lower() for word in title.split(",")]


def test_every_benchmark_is_known_here():
    assert benchmarks.names() == sorted(COUNTS)


def test_a_file_holds_the_benchmark_of_its_name(benchmark):
    assert benchmark.name in COUNTS and len(benchmark.classes) == COUNTS[benchmark.name]
    assert benchmark.title and benchmark.description.strip()


def test_imagenet_classes_are_wordnet_ids_in_order(imagenet):
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in imagenet.classes)
    assert list(imagenet.classes) == sorted(set(imagenet.classes))


def test_imagenet_1k_has_the_order_of_every_pretrained_network():
    assert list(benchmarks.load("imagenet-1k").classes) == IMAGENET_1K.label_names()


def test_every_imagenet_class_is_one_of_imagenet_1k(imagenet):
    """So that a network of 1,000 classes can label for it."""
    assert set(imagenet.classes) <= set(IMAGENET_1K.label_names())


def test_the_ten_classes_are_among_the_hundred():
    assert set(benchmarks.load("imagenet-10").classes) < set(benchmarks.load("imagenet-100").classes)


def test_a_title_names_its_wordnet_id(imagenet):
    assert len(imagenet.titles) == len(imagenet.classes)
    for wnid, title in zip(imagenet.classes, imagenet.titles):
        known = IMAGENET_1K.label_name_to_description(wnid)
        assert title in (known, "crane2") or title.lower() in synonyms(known)[:2], wnid


def test_a_title_means_the_same_class_in_every_benchmark():
    """ImageNet-1K's "crane" is the bird; the machine is "crane2" there, and must not be "crane" elsewhere."""
    whole = benchmarks.load("imagenet-1k")
    known = dict(zip(whole.titles, whole.classes))
    for name in IMAGENET:
        benchmark = benchmarks.load(name)
        for wnid, title in zip(benchmark.classes, benchmark.titles):
            assert known.get(title, wnid) == wnid, f"{name} {title}"


def test_no_title_is_the_name_of_another_class(benchmark):
    for k, title in enumerate(benchmark.titles):
        assert title not in benchmark.classes or benchmark.classes[k] == title


def test_cifar100_understands_the_hub_s_spelling_and_the_right_one():
    cifar100 = benchmarks.load("cifar100")
    assert cifar100.titles.index("cra") == cifar100.classes.index("crab")
    assert sum(a != b for a, b in zip(cifar100.classes, cifar100.titles)) == 1


@pytest.mark.parametrize("name, order", [("imagewoof", 10), ("tiny-imagenet", 200)])
def test_names_that_the_hub_s_repo_uses_wrongly_are_mapped_where_nothing_else_can_be_meant(name, order):
    """frgfm/imagewoof gives every label another class's name, zh-plus/tiny-imagenet names 18 classes by a homonym's id."""
    benchmark = benchmarks.load(name)
    wrong = {right: wrong for wrong, right in benchmark.data.renames.items()}
    names = [wrong.get(wnid, wnid) for wnid in benchmark.classes]
    features = datasets.Features({"label": datasets.ClassLabel(names=names)})
    table = datasets.Dataset.from_dict({"label": [*range(order)]}, features=features)
    assert classes.benchmark_labels(table, "label", benchmark, "x", True).tolist() == [*range(order)]
    if name == "imagewoof":  # right names in another place than in the repo, and distilled sets, are not believed wrong
        moved = table.cast(datasets.Features({"label": datasets.ClassLabel(names=[*names[1:], names[0]])}))
        for found, photographs in ((moved, True), (table, False)):
            with pytest.raises(UserError, match="which imagewoof has not"):
                classes.benchmark_labels(found, "label", benchmark, "x", photographs)


def test_a_part_is_read_from_where_the_whole_is(benchmark):
    data = benchmark.data
    if data.part_of:
        whole = benchmarks.load(data.part_of)
        fields = ("repo", "revision", "config", "train", "test", "image_column", "label_column")
        assert [getattr(data, field) for field in fields] == [getattr(whole.data, field) for field in fields]
        assert benchmark.image == whole.image and set(benchmark.classes) < set(whole.classes)
        assert set(zip(benchmark.classes, benchmark.titles)) < set(zip(whole.classes, whole.titles))


@pytest.mark.parametrize("name", OFTEN)
def test_the_test_split_is_fifty_images_of_every_class(name):
    assert benchmarks.load(name).data.test_images == 50 * COUNTS[name]


def test_pixels_are_described_in_0_to_1(benchmark):
    image = benchmark.image
    assert len(image.mean) == len(image.std) == 3
    assert all(0 < value < 1 for value in (*image.mean, *image.std))
    assert image.shorter_side == 0 or image.shorter_side >= image.size


def test_defaults_can_be_made(benchmark):
    student, teacher = benchmark.defaults.student, benchmark.defaults.teacher
    assert timm.is_model(student) and (teacher.startswith("local-dir:") or timm.is_model(teacher.partition(".")[0]))
    assert 1 / len(benchmark.classes) < benchmark.defaults.teacher_floor < 1


def test_a_citation_is_a_fraction_of_a_network_with_a_public_source(benchmark):
    for citation in benchmark.full_data:
        assert 1 / len(benchmark.classes) < citation.top1 < 1
        assert timm.is_model(citation.student)
        if citation.student.startswith("resnet"):  # the field says ResNet-18 for two networks
            assert citation.student.endswith("_cifar") == (benchmark.image.size <= students.SMALL)
        assert re.match(r"\w[\w.-]*/[\w.-]+ \S|torchvision \w", citation.source), citation.source
    assert benchmark.name == "digits" or benchmark.full_data
