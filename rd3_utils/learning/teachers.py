"""Teachers: pretrained networks that label views. One, or an ensemble whose logits are combined by a stated rule.

A teacher is named by a timm architecture, hf-hub:OWNER/REPO[@REVISION], local-dir:FOLDER (a student saved by
train_student.py is one), or torchvision:NAME. It runs in eval mode (but see `batch_statistics`) and float32, with the
normalisation it was trained with.
Its outputs are put into the benchmark's order by class name, and those of other classes are left out, as in
LINs-lab/RDED synthesize/utils.py:210-226: a network of ImageNet-1K teaches any part of it.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn

from rd3_utils import command_lines, hub, limits
from rd3_utils.bounded import shown
from rd3_utils.data import embedded, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.sources import NetworkSource
from rd3_utils.errors import UserError, shortened, unknown
from rd3_utils.learning import evaluation, students, training
from rd3_utils.learning.weights import RUN, check_stated_weights, weights_sha256
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.benchmark import Benchmark

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

MISLOADED = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    SafetensorError,
)  # what timm raises
IMAGENET = "imagenet-1k"  # the benchmark whose classes a network of 1000 unnamed outputs is taken to know


@dataclass(frozen=True)
class Teacher:
    """A network with its provenance; `mean` and `std` are those of its training images, for values in [0, 1].

    `columns` says, for each class of the benchmark, which output of the network answers for it; None: they are the same.
    """

    network: nn.Module
    source: str
    commit: str | None
    architecture: str
    sha256: str  # over parameters and buffers
    mean: tuple
    std: tuple
    top1: float | None = None  # on the benchmark's test split
    outputs: int | None = None  # classes that the network itself tells apart
    columns: tuple | None = None

    def describe(self) -> dict:
        """What labels and Runs record of it; `classes`, how many it knows, only where the benchmark has columns of them."""
        source = sources.parse_network(self.source).stated.text
        keys = ("commit", "architecture", "sha256", "top1")
        own = {} if self.columns is None else {"classes": self.outputs}
        return {"source": source, **{key: getattr(self, key) for key in keys}, **own}


def load(source: str, benchmark: Benchmark) -> Teacher:
    """The Teacher at `source`; `default` is the benchmark's.

    UserError for an unknown source, a network that cannot be had, that does not take the benchmark's images, that does not
    know all of its classes, or whose weights are no finite numbers.
    """
    where = sources.parse_network(source, benchmark.defaults.teacher)
    if where.kind == "torchvision":
        architecture, commit, names = where.name, None, None
        network, mean, std = from_torchvision(where)
    else:
        network, commit = from_timm(where, benchmark)
        config = cast(dict, network.pretrained_cfg)
        architecture, names = config["architecture"], config.get("label_names")
        mean, std = (channels(config.get(key), key, where) for key in ("mean", "std"))
    source = where.text
    network.eval().requires_grad_(False)
    training.check_finite(network, f"teacher {source}")
    outputs = count_outputs(network, source, benchmark.image.size)
    columns = columns_of(names, outputs, source, benchmark)
    sha256 = weights_sha256(network)
    return Teacher(network, source, commit, architecture, sha256, mean, std, outputs=outputs, columns=columns)


def channels(values: Any, key: str, source: NetworkSource) -> tuple:
    """The `mean` or `std` of a config.json; UserError unless it is three numbers that images can be normalised with."""
    least = -1e6 if key == "mean" else 1e-6
    plain = isinstance(values, (list, tuple)) and all(type(value) in (int, float) for value in values)
    if not plain or len(values) != 3 or not all(least <= value <= 1e6 for value in values):
        raise UserError(f"teacher {source}: {key} in its config.json is {shown(values)}, wanted three numbers.")
    return tuple(values)


def is_default(described: Any, benchmark: Benchmark) -> bool:
    """Whether a Teacher that a Run states is the benchmark's: by name or, where that comes with the project, by its bits."""
    source = benchmark.defaults.teacher
    return described.source == source or described.sha256 == embedded_sha256(source)


@cache
def embedded_sha256(source: str) -> str:
    """SHA-256 of the teacher local-dir:embedded/..., that comes with the project; "" of any other source."""
    where = sources.parse_network(source)
    folder = embedded.PACKAGE / where.name
    if where.kind != "local-dir" or not students.is_saved(folder):
        return ""
    return weights_sha256(timm.create_model(sources.saved(folder).text, pretrained=True))


def from_timm(source: NetworkSource, benchmark: Benchmark) -> tuple[nn.Module, str | None]:
    """(network, commit or None) of a timm architecture with its published weights, a Hub repo, or a saved student."""
    commit = overlay = None
    network = source
    if source.kind == "local-dir":
        path = Path(source.name)
        path = path if path.is_dir() else embedded.PACKAGE / path
        if not path.is_dir():
            train = TrainOptions(benchmark=benchmark.name, distilled="full", arms="full-hard")
            raise UserError(
                f"teacher {source}: there is no such folder. A teacher is a student of the full data: make one with "
                f"{command_lines.launch(train, stated=['benchmark'])}, "
                "then give --teacher local-dir:FOLDER, the seed0 folder of its results."
            )
        students.read_timm_config(path)  # says so where there is none
        network = sources.saved(path)
    elif source.kind == "hf-hub":
        commit = hub.commit(source.name, source.revision, repo_type="model")
        folder = hub.network_folder(source.name, commit)
        students.read_timm_config(folder)
        hub.small_file(source.name, commit, RUN, limits.MOST_JSON_BYTES)  # beside them, where the repo has one
        network = sources.saved(folder)
    elif not timm.is_model(source.architecture):
        raise unknown("teacher", source, [*sources.NETWORKS, *timm.list_models(source.name[:3] + "*")])
    elif published := repo_of(source.name):
        commit = hub.commit(published, repo_type="model")
        hub.network_folder(published, commit)  # from where timm takes them; it would read a pickle where there is nothing else
        overlay = {"hf_hub_id": f"{published}@{commit}", "hf_hub_filename": None}
    try:
        loaded = timm.create_model(network.text, pretrained=True, pretrained_cfg_overlay=overlay)
    except (*MISLOADED, hub.httpx.HTTPError) as error:
        raise UserError(f"teacher {source} cannot be loaded: {hub.one_line(error)}") from error
    if network.kind == "local-dir":
        check_stated_weights(Path(network.name), loaded, f"teacher {source}")
    return loaded, commit


def repo_of(name: str) -> str | None:
    """The Hub repo with the published weights of a timm architecture; None where they have an address of their own."""
    try:
        return getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    except RuntimeError as error:
        raise UserError(f"teacher {name} cannot be loaded: {hub.one_line(error)}") from error


def count_outputs(network: nn.Module, source: str, size: int) -> int:
    """How many classes a network tells apart in images of `size` pixels; UserError where it does not take them."""
    try:
        with torch.no_grad():
            return network(torch.zeros(1, 3, size, size)).shape[-1]
    except students.MISFITS as error:
        raise UserError(f"teacher {source} does not take {size} px images: {hub.one_line(error)}") from error


def columns_of(names: list | tuple | dict | None, outputs: int, source: str, benchmark: Benchmark) -> tuple[int, ...] | None:
    """For each class of the benchmark the output that answers for it; None where outputs and classes are the same in order.

    `names` of the outputs are a list, {index: name} or None. Nameless outputs as many as ImageNet-1K's classes are taken
    for those in the order of WordNet ids, as timm and torchvision have them; others for the benchmark's own. UserError
    unless every class, by name or by title, is one output.
    """
    whole = benchmarks.load(IMAGENET)
    imagenet = whole.classes
    if not names and outputs == len(imagenet) and set(benchmark.classes) <= set(imagenet):
        names = imagenet
    if names is not None and not isinstance(names, (list, tuple, dict)):
        raise UserError(f"teacher {source}: label_names in its config.json are {shown(names)}, wanted a list of class names.")
    if not names:
        if outputs != len(benchmark.classes):
            raise UserError(
                f"teacher {source} has {outputs} classes, {benchmark.name} has {len(benchmark.classes)}; "
                "give a teacher of this benchmark."
            )
        return None
    names = [names.get(str(k)) for k in range(outputs)] if isinstance(names, dict) else list(names)
    strange = [name for name in names if not isinstance(name, str | None)]
    if strange:
        raise UserError(f"teacher {source}: label_names in its config.json hold {shown(strange[0])}, wanted class names.")
    if set(names) <= {*imagenet, *whole.titles} and set(benchmark.classes) <= set(imagenet):
        ids = dict(zip(whole.titles, imagenet))  # a smaller benchmark's titles may be shorter, or another class's there
        names = [ids.get(name, name) for name in names]
    if len(names) != outputs:
        raise UserError(f"teacher {source} names {len(names)} classes and has {outputs} outputs; its config.json is wrong.")
    for wanted in filter(None, (benchmark.classes, benchmark.titles)):
        if all(names.count(name) == 1 for name in wanted):
            columns = tuple(map(names.index, wanted))
            return None if columns == tuple(range(outputs)) else columns
    lacking = next(name for name in benchmark.classes if names.count(name) != 1)
    known = ", ".join(shortened(str(name)) for name in names[:3])
    raise UserError(
        f"teacher {source} knows classes {known} ... ({outputs}), {benchmark.name} has "
        f"{', '.join(benchmark.classes[:3])} ... ({len(benchmark.classes)}), of which '{lacking}' is not one of the "
        "teacher's; give a teacher of this benchmark."
    )


def from_torchvision(source: NetworkSource) -> tuple[nn.Module, tuple, tuple]:
    """(network, mean, std) of torchvision NAME with its first published weights, such as IMAGENET1K_V1."""
    import torchvision

    name, weights_name = source.architecture, source.tag
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        raise unknown("torchvision network", name, classifiers)
    weights = list(torchvision.models.get_model_weights(name))
    known = [weight.name for weight in weights]
    if weights_name and weights_name not in known:
        raise unknown(f"weights of torchvision:{name}", weights_name, known)
    weights = weights[known.index(weights_name) if weights_name else 0]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"weights of torchvision:{name} cannot be fetched: {hub.one_line(error)}") from error
    network = torchvision.models.get_model(name, **builder_arguments(name, weights))
    # keys of old dense-net checkpoints, as torchvision's own loader renames them
    pattern = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$")
    network.load_state_dict({pattern.sub(r"\1\2", key): value for key, value in state.items()})
    transform = weights.transforms()
    return network, tuple(transform.mean), tuple(transform.std)


def builder_arguments(name: str, weights: "WeightsEnum") -> dict:
    """What torchvision tells its builder along with these weights (its googlenet.py:326 and vision_transformer.py:321)."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": weights.meta["min_size"][0]}
    return {}


def teachers_id(teachers: Sequence[Teacher], ensemble: str, teacher_bn: str = "eval") -> str:
    """SHA-256 of who labels and how: networks, normalisation, columns, rules. Where the weights came from does not enter."""
    parts = [f"{t.sha256} {t.mean} {t.std}" + ("" if t.columns is None else f" {t.columns}") for t in teachers]
    rule = (ensemble if len(parts) > 1 else "single") + ("" if teacher_bn == "eval" else f" {teacher_bn}")
    return hashlib.sha256("\n".join([rule, *parts]).encode()).hexdigest()


def described(teachers: Sequence[Teacher], ensemble: str) -> list[dict]:
    """What a label store records of its teachers; their weights, too, where accuracy decides them and was measured."""
    records = [teacher.describe() for teacher in teachers]
    if ensemble != "accuracy_weighted" or len(records) == 1 or any(teacher.top1 is None for teacher in teachers):
        return records
    weights = accuracy_weights([teacher.top1 for teacher in teachers]).tolist()
    return [{**about, "weight": weight} for about, weight in zip(records, weights)]


def mean(logits: Sequence[torch.Tensor], top1: Sequence[float | None]) -> torch.Tensor:
    """The mean of the logits."""
    total: Any = 0
    for some in logits:
        total = total + some
    return total / len(logits)


def norm_balanced(logits: Sequence[torch.Tensor], top1: Sequence[float | None]) -> torch.Tensor:
    """The mean of the logits, each teacher's first scaled to the mean norm of all teachers' for the same view.

    shaoshitong/G_VBSM_Dataset_Condensation Branch_full_ImageNet_1k/relabel/generate_soft_label_with_db.py:262-264 (arXiv
    2311.17950) takes one norm over a whole batch, so that a label depends on its batch mates. Here every row has its own.
    """
    norms = [some.norm(dim=1, keepdim=True) for some in logits]
    shared = mean(norms, top1)
    return mean([some * (shared / norm.clamp(min=1e-12)) for some, norm in zip(logits, norms)], top1)


def accuracy_weighted(logits: Sequence[torch.Tensor], top1: Sequence[float | None]) -> torch.Tensor:
    """The sum of the logits weighted by `accuracy_weights`."""
    return sum(weight * some for weight, some in zip(accuracy_weights(top1).tolist(), logits))


def accuracy_weights(top1: Sequence[float | None]) -> torch.Tensor:
    """float64 [K]: softmax(accuracy in percent / 10), as Jiacheng8/CV-DD relabel/relabel.py:281-328 (arXiv 2501.07575).

    The accuracies are those of the examination, on the test split: labels under this rule know that much of it.
    """
    return (torch.tensor(top1, dtype=torch.float64) * 100 / 10).softmax(0)


ENSEMBLES = {"mean": mean, "norm_balanced": norm_balanced, "accuracy_weighted": accuracy_weighted}


class Ensemble(nn.Module):
    """Teachers as one network over images normalised for `benchmark`: their logits for its classes, float32 [B, C], combined.

    A teacher of more classes answers as if there were no others: its softmax is over the benchmark's.
    """

    def __init__(self, teachers: Sequence[Teacher], benchmark: Benchmark, rule: str = "mean") -> None:
        super().__init__()
        self.networks = nn.ModuleList(teacher.network for teacher in teachers)
        own = (tuple(benchmark.image.mean), tuple(benchmark.image.std))
        self.rescale = [None if (t.mean, t.std) == own else rescaling(own, (t.mean, t.std)) for t in teachers]
        self.columns = [None if t.columns is None else torch.tensor(t.columns) for t in teachers]
        self.combine, self.top1 = ENSEMBLES[rule] if len(teachers) > 1 else mean, [t.top1 for t in teachers]
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = []
        for network, rescale, columns in zip(self.networks, self.rescale, self.columns):
            y = x if rescale is None else x * rescale[0].to(x.device) + rescale[1].to(x.device)
            logits = network(y).float()
            answers.append(logits if columns is None else logits[:, columns.to(x.device)])
        return self.combine(answers, self.top1)


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """A context in which batch norm normalises with the batch it sees and remembers nothing of it; all else is in eval mode.

    Not `network.train()`, as CV-DD and FADRM do it, which also switches dropout on and moves the running statistics.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(module.training, module.track_running_stats) for module in norms]
    for module in norms:
        module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for module, (training, tracking) in zip(norms, before):
            module.training, module.track_running_stats = training, tracking


def rescaling(source: tuple, target: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift [3, 1, 1] that turn images normalised by `source` (mean, std) into those normalised by `target`."""
    (mean, std), (new_mean, new_std) = (
        [torch.tensor(v, dtype=torch.float64)[:, None, None] for v in pair] for pair in (source, target)
    )
    return (std / new_std).float(), ((mean - new_mean) / new_std).float()


def examined(teacher: Teacher, benchmark: Benchmark, test: ImageSet, accelerator: Accelerator) -> Teacher:
    """The Teacher with its top-1 on the whole test split; UserError below the benchmark's stated floor.

    A wrong class order is caught here, and a wrong normalisation where it costs accuracy. One that was examined is returned
    as it is.
    """
    if teacher.top1 is not None:
        return teacher
    network = Ensemble([teacher], benchmark).to(accelerator.device)
    whose = f"teacher {teacher.source}"
    top1 = evaluation.accuracy(network, test, benchmark, accelerator, exact=True, whose=whose).top1
    floor = benchmark.defaults.teacher_floor
    if top1 < floor:
        raise UserError(
            f"teacher {teacher.source} has top-1 {100 * top1:.2f} % on {benchmark.name}, wanted at least "
            f"{100 * floor:.2f} % (benchmark's teacher_floor): wrong class order, normalisation or weights."
        )
    return dataclasses.replace(teacher, top1=top1)
