"""Teachers: pretrained networks that label views. One, or an ensemble whose logits are averaged.

A teacher is named by a timm architecture, hf-hub:OWNER/REPO[@REVISION], local-dir:FOLDER (a student saved by
train_student.py is one), or torchvision:NAME. It runs in eval mode and float32, with the normalisation it was trained with.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from rd3_utils import hub
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError, unknown
from rd3_utils.learning import evaluation, students


@dataclass(frozen=True)
class Teacher:
    """A network with its provenance; `mean` and `std` are those of its training images, for values in [0, 1]."""

    network: nn.Module
    source: str
    commit: str | None
    architecture: str
    sha256: str  # over parameters and buffers
    mean: tuple
    std: tuple
    top1: float | None = None  # on the benchmark's test split

    def describe(self):
        """What labels and Runs record of it."""
        source = self.source
        if source.startswith("local-dir:"):
            source = f"local-dir:{image_sets.without_machine(source.removeprefix('local-dir:'))}"
        keys = ("commit", "architecture", "sha256", "top1")
        return {"source": source, **{key: getattr(self, key) for key in keys}}


def load(source, benchmark):
    """The Teacher at `source`; `default` is the benchmark's.

    UserError for an unknown source, a network that cannot be had, other classes or another number of classes.
    """
    source = benchmark.defaults.teacher if source == "default" else source
    kind, _, rest = source.partition(":")
    commit = None
    if kind == "torchvision":
        network, mean, std = from_torchvision(rest)
        architecture, label_names = rest, None
    else:
        name = source
        if kind == "local-dir" or (not rest and Path(source).is_dir()):
            path = Path(rest or source)
            path = path if path.is_dir() else image_sets.PACKAGE / path
            if not path.is_dir():
                raise UserError(
                    f"teacher {source}: there is no such folder. A teacher is a student of the full data: make one with "
                    f"accelerate launch train_student.py --benchmark {benchmark.name} --distilled full --arms full-hard, "
                    "then give --teacher local-dir:FOLDER, the seed0 folder of its results."
                )
            label_names = students.read_config(path).get("label_names")
            name = f"local-dir:{path}"
        elif kind == "hf-hub":
            repo, revision, _ = hub.parse(rest)
            commit = hub.commit(repo, revision, repo_type="model")
            name, label_names = f"hf-hub:{repo}@{commit}", None
        elif not timm.is_model(source.partition(".")[0]):
            raise unknown("teacher", source, ["default", "hf-hub:OWNER/REPO", "local-dir:FOLDER", "torchvision:NAME",
                                              *timm.list_models(source[:3] + "*")])  # fmt: skip
        else:
            label_names = None
        try:
            network = timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"teacher {source} cannot be loaded: {hub.one_line(error)}") from error
        config = network.pretrained_cfg
        architecture, mean, std = config["architecture"], tuple(config["mean"]), tuple(config["std"])
        label_names = label_names or config.get("label_names")
    if label_names and tuple(label_names) != benchmark.classes:
        raise UserError(
            f"teacher {source} knows classes {', '.join(label_names[:3])} ... ({len(label_names)}), {benchmark.name} has "
            f"{', '.join(benchmark.classes[:3])} ... ({len(benchmark.classes)}); give a teacher of this benchmark."
        )
    return finished(network, source, commit, architecture, mean, std, benchmark)


def finished(network, source, commit, architecture, mean, std, benchmark):
    """The Teacher, frozen and in eval mode, once it is seen to give one logit per class."""
    network.eval().requires_grad_(False)
    size = benchmark.image.size
    try:
        with torch.no_grad():
            classes = network(torch.zeros(1, 3, size, size)).shape[-1]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"teacher {source} does not take {size} px images: {hub.one_line(error)}") from error
    if classes != len(benchmark.classes):
        raise UserError(
            f"teacher {source} has {classes} classes, {benchmark.name} has {len(benchmark.classes)}; "
            "give a teacher of this benchmark."
        )
    return Teacher(network, source, commit, architecture, weights_sha256(network), mean, std)


def from_torchvision(name):
    """(network, mean, std) of torchvision NAME with its first published weights, such as IMAGENET1K_V1."""
    import torchvision

    name, _, weights_name = name.partition(".")
    if name not in torchvision.models.list_models():
        raise unknown("torchvision network", name, torchvision.models.list_models())
    weights = list(torchvision.models.get_model_weights(name))
    known = [weight.name for weight in weights]
    if weights_name and weights_name not in known:
        raise unknown(f"weights of torchvision:{name}", weights_name, known)
    weights = weights[known.index(weights_name) if weights_name else 0]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"torchvision:{name} weights cannot be fetched: {hub.one_line(error)}") from error
    network = torchvision.models.get_model(name)
    # keys of old dense-net checkpoints, as torchvision's own loader renames them
    pattern = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$")
    network.load_state_dict({pattern.sub(r"\1\2", key): value for key, value in state.items()})
    transform = weights.transforms()
    return network, tuple(transform.mean), tuple(transform.std)


def weights_sha256(network):
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def teachers_id(teachers, ensemble):
    """SHA-256 of who labels and how: networks, normalisation, rule. Where the weights came from does not enter."""
    parts = [f"{t.sha256} {t.mean} {t.std}" for t in teachers]
    return hashlib.sha256("\n".join([ensemble if len(parts) > 1 else "single", *parts]).encode()).hexdigest()


class Ensemble(nn.Module):
    """Teachers as one network over images normalised for `benchmark`: the mean of their logits, float32 [B, C]."""

    def __init__(self, teachers, benchmark):
        super().__init__()
        self.networks = nn.ModuleList(teacher.network for teacher in teachers)
        own = (tuple(benchmark.image.mean), tuple(benchmark.image.std))
        self.rescale = [None if (t.mean, t.std) == own else rescaling(own, (t.mean, t.std)) for t in teachers]
        self.eval()

    def forward(self, x):
        total = 0
        for network, rescale in zip(self.networks, self.rescale):
            y = x if rescale is None else x * rescale[0].to(x.device) + rescale[1].to(x.device)
            total = total + network(y).float()
        return total / len(self.networks)


def rescaling(source, target):
    """Factor and shift [3, 1, 1] that turn images normalised by `source` (mean, std) into those normalised by `target`."""
    (mean, std), (new_mean, new_std) = (
        [torch.tensor(v, dtype=torch.float64)[:, None, None] for v in pair] for pair in (source, target)
    )
    return (std / new_std).float(), ((mean - new_mean) / new_std).float()


def examined(teacher, benchmark, test, accelerator):
    """The Teacher with its top-1 on the whole test split; UserError below the benchmark's stated floor.

    A wrong class order is caught here, and a wrong normalisation where it costs accuracy.
    """
    network = Ensemble([teacher], benchmark).to(accelerator.device)
    top1 = evaluation.accuracy(network, test, benchmark, accelerator, exact=True)["top1"]
    floor = benchmark.defaults.teacher_floor
    if top1 < floor:
        raise UserError(
            f"teacher {teacher.source} has top-1 {100 * top1:.2f} % on {benchmark.name}, wanted at least "
            f"{100 * floor:.2f} % (benchmark's teacher_floor): wrong class order, normalisation or weights."
        )
    return Teacher(**{**teacher.__dict__, "top1": top1})
