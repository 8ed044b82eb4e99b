"""Networks at the sizes that occur: the field's to the parameter and buffer, and what does not fit is refused in one line."""

import dataclasses
import shutil

import pytest
import timm
import torch
import torchvision
from conftest import shaken
from torch import nn

from rd3_utils.errors import UserError
from rd3_utils.learning import students, teachers


def benchmark_of(digits, size, classes):
    """The digits benchmark as if its images had another size, and as many classes."""
    image = dataclasses.replace(digits.image, size=size)
    return dataclasses.replace(digits, image=image, classes=tuple(map(str, range(classes))))


def count(network):
    return sum(p.numel() for p in network.parameters()), sum(b.numel() for b in network.buffers())


# NUS-HPC-AI-Lab/DD-Ranking b8b0966 and LINs-lab/RDED 3f6453d, counted from their code: size, classes -> parameters
SIZES = [(32, 10), (32, 100), (64, 200), (128, 10), (224, 1000)]
CONVNETS = {
    "convnet3": (771, [320_010, 504_420, 1_938_120, 627_210, 100_652_520]),
    "convnet4": (1_028, [452_490, 498_660, 857_160, 529_290, 25_536_360]),
    "convnet5": (1_285, [596_490, 608_100, 697_800, 615_690, 6_868_200]),
    "convnet6": (1_542, [None, None, 768_840, 748_170, 1_896_040]),  # None: 2^6 is more than 32 px
}
RESNETS = {  # with the small-image stem at 32 and 64 px, stock above
    "resnet18": (9_620, [11_173_962, 11_220_132, 11_271_432, 11_181_642, 11_689_512]),
    "resnet34": (17_060, [21_282_122, 21_328_292, 21_379_592, 21_289_802, 21_797_672]),
    "resnet50": (53_173, [23_520_842, 23_705_252, 23_910_152, 23_528_522, 25_557_032]),
    "resnet101": (105_448, [42_512_970, 42_697_380, 42_902_280, None, 44_549_160]),  # None: not in their table
}
STOCK = {"mobilenetv2_100": (3_504_872, 34_164), "efficientnet_b0": (5_288_548, 42_065)}
TABLE = [
    *[(name, *at, n, 0) for name, (_, row) in CONVNETS.items() for at, n in zip(SIZES, row) if n],
    *[(f"{name}_bn", *at, n, buffers) for name, (buffers, row) in CONVNETS.items() for at, n in zip(SIZES, row) if n],
    *[("convnet5_bn", 128, 100, 800_100, 1_285), ("convnet6_bn", 128, 100, 794_340, 1_542)],
    *[(name, *at, n, buffers) for name, (buffers, row) in RESNETS.items() for at, n in zip(SIZES, row) if n],
    *[(name, 224, 1000, n, buffers) for name, (n, buffers) in STOCK.items()],
]


@pytest.mark.parametrize("name, size, classes, parameters, buffers", TABLE)
def test_a_student_has_the_fields_parameters_and_buffers(digits, name, size, classes, parameters, buffers):
    with torch.device("meta"):  # shapes without numbers: create() sees two images through, too
        network = students.create(name, benchmark_of(digits, size, classes), 0)
        assert network(torch.zeros(3, 3, size, size)).shape == (3, classes)
    assert count(network) == (parameters, buffers)


@pytest.mark.parametrize("name", ["convnet6", "convnet6_bn"])
@pytest.mark.parametrize("classes", [10, 100])
def test_a_convnet_too_deep_for_the_image_is_refused(digits, name, classes):
    with pytest.raises(UserError, match=r"halves the image 6 times; 32 px is too small, use 2\^6 or more"):
        students.create(name, benchmark_of(digits, 32, classes), 0)


@pytest.mark.parametrize(
    "name, classes, parameters, buffers",
    [
        ("resnet50", 1000, 25_557_032, 53_173),
        ("mobilenet_v2", 1000, 3_504_872, 34_164),
        ("efficientnet_b0", 1000, 5_288_548, 42_065),
        ("alexnet", 1000, 61_100_840, 0),
        ("alexnet", 10, 57_044_810, 0),
        ("vgg11", 1000, 132_863_336, 0),
        ("vgg11", 10, 128_807_306, 0),
    ],
)
def test_a_torchvision_teachers_network_has_the_fields_parameters_and_buffers(name, classes, parameters, buffers):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, num_classes=classes).eval()
        assert teachers.count_outputs(network, f"torchvision:{name}", 224) == classes
    assert count(network) == (parameters, buffers)


@pytest.mark.parametrize(
    "name, taken, refused",
    [
        ("shufflenet_v2_x0_5", 32, None),
        ("swin_t", 64, None),
        ("vgg11", 32, 8),
        ("alexnet", 64, 32),
        ("inception_v3", 128, 64),
        ("vit_b_32", 224, 64),
    ],
)
def test_a_torchvision_teacher_takes_images_or_says_that_it_does_not(name, taken, refused):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, **({"init_weights": False} if name == "inception_v3" else {})).eval()
        assert teachers.count_outputs(network, name, taken) == 1000
        if refused:
            with pytest.raises(UserError, match=f"^teacher {name} does not take {refused} px images: .+$"):
                teachers.count_outputs(network, name, refused)


@pytest.mark.parametrize("size", [32, 64])
def test_a_small_image_resnet_keeps_the_resolution_at_its_stem(digits, size):
    network = students.create("resnet18", benchmark_of(digits, size, 10), 0)
    assert (network.conv1.kernel_size, network.conv1.stride, network.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(network.maxpool, nn.Identity)
    x = torch.zeros(1, 3, size, size)
    assert network.maxpool(network.conv1(x)).shape == (1, 64, size, size)
    assert network.forward_features(x).shape == (1, 512, size // 8, size // 8)


BY_NAME = """vit_base_cifar swin_tiny_cifar mobilenetv2_100 efficientnet_b0 vit_base_patch16_224
             swin_tiny_patch4_window7_224""".split()


@pytest.mark.parametrize(
    "name, size",
    [
        *[(name, size) for name in BY_NAME for size in (32, 64, 128, 224)],
        *[("deit_tiny_patch16_224", 32), ("mixer_b16_224", 64), ("xcit_nano_12_p8_224", 32), ("maxvit_tiny_tf_224", 64)],
    ],
)
def test_a_student_gives_a_logit_per_class_at_every_size(digits, name, size):
    with torch.device("meta"):
        network = students.create(name, benchmark_of(digits, size, 7), 0)
        assert network.train()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    "name, size, reason",
    [
        ("inception_v3", 64, r"\(timm's size for it: 299 px\): RuntimeError: .*Kernel size can't be greater"),
        ("vit_tiny_patch16_224", 8, r"\(timm's size for it: 224 px\)"),
        ("halonet26t", 32, r"\(timm's size for it: 256 px\): AssertionError"),
        ("crossvit_tiny_240", 64, r"\(timm's size for it: 240 px\)"),
    ],
)
def test_a_student_that_does_not_fit_is_refused_in_one_line(digits, name, size, reason):
    with torch.device("meta"), pytest.raises(UserError) as refused:
        students.create(name, benchmark_of(digits, size, 10), 0)
    assert refused.match(f"^student {name} cannot be built for {size} px images {reason}") and "\n" not in str(refused.value)


@pytest.mark.parametrize("name, across", [("vit_base_cifar", 8), ("swin_tiny_cifar", 16)])
def test_an_image_that_is_no_whole_number_of_patches_is_refused(digits, name, across):
    with pytest.raises(UserError, match=f"{across}x{across} patches; 36 px is no multiple of {across}"):
        students.create(name, benchmark_of(digits, 36, 10), 0)


def test_a_tag_that_timm_does_not_have_is_refused(digits):
    with pytest.raises(UserError, match=r"unknown student 'vit_base_patch16_224.mine'.*mine"):
        students.architecture("vit_base_patch16_224.mine", digits)


def test_convolutions_of_three_dimensions_stay_as_they_are(digits):
    """lambda_resnet26t has batch norm and a 3-d convolution, which has no channels-last of two dimensions."""
    with torch.device("meta"):
        assert students.create("lambda_resnet26t", benchmark_of(digits, 32, 10), 0).num_classes == 10


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize(
    "name, stock, divisor, arguments",
    [
        ("vit_base_cifar", "vit_base_patch16_224", 8, {}),
        ("swin_tiny_cifar", "swin_tiny_patch4_window7_224", 16, {"window_size": 4}),
    ],
)
def test_a_small_image_transformer_is_timms_with_other_patches(digits, name, stock, divisor, arguments, size):
    """The same keys and shapes, and the same tokens: 64 for ViT-B, maps of 16, 8, 4 and 2 for Swin-T."""
    with torch.device("meta"):
        network = students.create(name, benchmark_of(digits, size, 10), 0)
        oracle = timm.create_model(stock, num_classes=10, img_size=size, patch_size=size // divisor, **arguments)
        shapes = [(key, value.shape) for key, value in oracle.state_dict().items()]
        assert [(key, value.shape) for key, value in network.state_dict().items()] == shapes
        assert network.patch_embed.grid_size == (divisor, divisor)
        sides = {stage.blocks[0].input_resolution[0] for stage in getattr(network, "layers", ())}
    assert sides == ({16, 8, 4, 2} if name.startswith("swin") else set())


@pytest.mark.parametrize(
    "name, stock, arguments",
    [
        ("vit_base_cifar", "vit_base_patch16_224", {"patch_size": 4}),
        ("swin_tiny_cifar", "swin_tiny_patch4_window7_224", {"patch_size": 2, "window_size": 4}),
    ],
)
def test_a_small_image_transformer_computes_what_timms_does(name, stock, arguments):
    """Its heads, tokens, windows, shifts and norms too: the same weights give the same logits."""
    ours = shaken(timm.create_model(name, num_classes=10, img_size=32)).eval()
    theirs = timm.create_model(stock, num_classes=10, img_size=32, **arguments)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs.eval()(x)) and float(ours(x).detach().std()) > 0.1


@pytest.mark.parametrize(
    "name, size",
    [
        ("vit_base_cifar", 32),
        *[pytest.param(name, 64, marks=pytest.mark.slow) for name in ("vit_base_cifar", "vit_base_patch16_224")],
        *[("swin_tiny_cifar", 32), ("swin_tiny_cifar", 64), ("swin_tiny_patch4_window7_224", 64)],
        *[("deit_tiny_patch16_224", 32), ("convnet5", 64), ("resnet18", 64), ("coat_tiny", 32)],
    ],
)
def test_a_saved_student_reloads_at_its_size_bit_for_bit(digits, tmp_path, name, size):
    network = shaken(students.create(name, benchmark_of(digits, size, 10), 5))
    students.save(network, tmp_path / "seed5", benchmark_of(digits, size, 10))
    again = timm.create_model(f"local-dir:{tmp_path / 'seed5'}", pretrained=True)
    mine, theirs = network.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    x = torch.randn(2, 3, size, size)
    assert torch.allclose(network.eval()(x), again.eval()(x), rtol=1e-4, atol=1e-5) and float(again(x).detach().std()) > 0.01
    shutil.rmtree(tmp_path / "seed5")  # up to 340 MB, and pytest keeps the folders of three sessions
