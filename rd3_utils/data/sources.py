"""SOURCE: where images and networks come from. Its grammar is known here and nowhere else; others ask the Source.

    images     a path that exists; random:ipc=K,seed=S; full; METHOD:ipc=K; the name of an embedded set;
               OWNER/REPO[@REVISION][:CONFIG]
    networks   default; a folder or local-dir:FOLDER; hf-hub:OWNER/REPO[@REVISION]; torchvision:NAME[.WEIGHTS]; a timm name

`parse` and `parse_network` read what people write, `recorded` reads what outputs say. Nothing is looked up but whether a path
exists, which wins over all that it might mean otherwise.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rd3_utils.errors import UserError, unknown

SELECTIONS = {  # image sets that need no file of their own
    "random": "random:ipc=K,seed=S: K real training images per class",
    "full": "the whole train split",
}
OPTIONS: dict[str, dict[str, int | None]] = {"random": {"ipc": None, "seed": 0}, "full": {}}  # defaults; None: to be given
NUMBER = "(0|[1-9][0-9]{0,17})"
RANDOM = re.compile(rf"random:ipc=(?!0){NUMBER},seed={NUMBER}")  # as outputs write it
HELD_OUT_FORM = re.compile(rf"held-out:ipc={NUMBER}")
METHOD_FORM = re.compile(rf"([a-z0-9_-]+):ipc={NUMBER}")
REPO = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w./@-]+))?", re.ASCII)
NETWORKS = ("default", "hf-hub:OWNER/REPO", "local-dir:FOLDER", "torchvision:NAME")  # beside every timm name

Kind = Literal["path", "selection", "method", "name", "repo", "held-out"]
NetworkKind = Literal["default", "local-dir", "hf-hub", "torchvision", "timm"]


@dataclass(frozen=True)
class Source:
    """Where images come from; `text` is its one spelling, which reads back as the same Source.

    `name` is the path, the selection ("random", "full"), the method, the embedded set or OWNER/REPO. Random real images have
    `ipc` and `seed`, a method has `ipc`, a repo may have `revision` and `config` (a folder of it, where it holds label stores).
    """

    kind: Kind
    name: str
    ipc: int | None = None
    seed: int | None = None
    revision: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """How outputs, command lines and messages write it."""
        options = [f"{key}={value}" for key, value in (("ipc", self.ipc), ("seed", self.seed)) if value is not None]
        at = f"@{self.revision}" if self.revision else ""
        return self.name + at + (f":{','.join(options)}" if options else "") + (f":{self.config}" if self.config else "")

    @property
    def is_selection(self) -> bool:
        """Whether it selects real images of the train split."""
        return self.kind == "selection"

    @property
    def is_full(self) -> bool:
        """Whether it is the whole train split."""
        return self == FULL

    @property
    def draw(self) -> tuple[int, int] | None:
        """(images per class, seed) of random real images, else None."""
        return (self.ipc, self.seed) if self.is_selection and self.ipc is not None and self.seed is not None else None

    @property
    def repo(self) -> str | None:
        """OWNER/REPO of what lies on the Hub, else None."""
        return self.name if self.kind == "repo" else None

    @property
    def stated(self) -> "Source":
        """The same as outputs may name it: of an absolute path the last part, and no path as if it were a selection."""
        if self.kind != "path":
            return self
        name = without_machine(self.name)
        return replace(self, name=name if recorded(name).kind == "path" else f"./{name}")

    @property
    def set_name(self) -> str:
        """How folders and tables name the image set: a file or folder by its name up to the first dot, a repo without owner."""
        if self.kind == "path":
            return Path(self.name).resolve().name.split(".")[0]
        if self.kind == "repo":
            return "-".join(filter(None, [self.name.split("/")[1], (self.config or "").replace("/", "-")]))
        return self.name if self.draw is None else f"{self.name}-ipc{self.ipc}-seed{self.seed}"


FULL = Source("selection", "full")


def random(ipc: int, seed: int) -> Source:
    """`ipc` random real images of every class; UserError for less than one."""
    one = Source("selection", "random", ipc, seed)
    if ipc < 1:
        raise UserError(f"selection '{one}' asks for {ipc} images per class, wanted at least 1.")
    return one


def held_out(ipc: int) -> Source:
    """`ipc` train images of every class that a learning-rate search scores on; only outputs name them."""
    return Source("held-out", "held-out", ipc)


def parse(text: str | Source, here: Path | str = "") -> Source:
    """The Source that a person means by `text`; paths are relative to the folder `here`. A Source stays as it is.

    A path that does not exist is one by how it begins or ends. UserError for a selection with wrong options, and for what is
    none of all.
    """
    if isinstance(text, Source):
        return text
    if exists(Path(here) / text):
        return Source("path", text)
    if text.partition(":")[0] in SELECTIONS:
        return selection(text)
    if method := METHOD_FORM.fullmatch(text):
        return Source("method", method[1], int(method[2]))
    if reads_as_folder(text):
        return Source("path", text)
    return repository(text) if "/" in text else Source("name", text)


def reads_as_folder(text: str) -> bool:
    """Whether `text` is a path by how it begins or ends, whether there is one or not."""
    return text.startswith((".", "/", "~")) or text.endswith("/")


def parse_stores(text: str) -> Source:
    """The Source of label stores that a person means by `text`: OWNER/REPO[@REVISION][:FOLDER], else a folder, made or not."""
    is_folder = exists(Path(text)) or reads_as_folder(text) or not REPO.fullmatch(text) or has_dots(text)
    return Source("path", text) if is_folder else repository(text)


def selection(text: str) -> Source:
    """A selection as people write it: options in any order, the seed left out or not. UserError for wrong ones."""
    name, _, stated = text.partition(":")
    options = dict(OPTIONS[name])
    for pair in filter(None, stated.split(",")):
        key, _, value = pair.partition("=")
        if not re.fullmatch(NUMBER, value):
            raise UserError(f"selection {text!r}: {pair!r} is not KEY=NUMBER, as in random:ipc=10,seed=0.")
        if not options:
            raise UserError(f"selection {text!r}: {name} takes no options.")
        if key not in options:
            raise unknown(f"option of selection {text!r}", key, options)
        if stated.count(f"{key}=") > 1:
            raise UserError(f"selection {text!r} states {key} twice.")
        options[key] = int(value)
    missing = [key for key, value in options.items() if value is None]
    if missing:
        raise UserError(f"selection {text!r} lacks {missing[0]}; write for example random:ipc=10,seed=0.")
    return FULL if name == "full" else random(options["ipc"] or 0, options["seed"] or 0)


def repository(text: str) -> Source:
    """OWNER/REPO[@REVISION][:CONFIG]; UserError if it is not one."""
    match = REPO.fullmatch(text)
    if not match or has_dots(text):
        raise UserError(
            f"source {text!r} is neither a path that exists, nor a selection (random:ipc=10,seed=0 or full), "
            "nor OWNER/REPO[@REVISION][:CONFIG]."
        )
    return Source("repo", match[1], revision=match[2], config=match[3])


def has_dots(text: str) -> bool:
    """Whether a part of `text` is "." or "..", which no name in a repo is."""
    return bool({".", ".."} & set(re.split("[/@:]", text)))


def folder(path: Path | str) -> Source:
    """The image set in a folder or file, whether it is there or not."""
    return Source("path", str(path))


def in_repo(repo: str, folder: str, revision: str | None = None) -> Source:
    """A folder of OWNER/REPO: an image set, or label stores."""
    return Source("repo", repo, revision=revision, config=folder)


def recorded(text: str, commit: str | None = None) -> Source:
    """The Source that an output states with the `commit` of the Hub, or None for local files; no file is looked at.

    A draw of random images is `random:ipc=K,seed=S` just as `text` writes it: any other spelling is a selection of no draw.
    """
    if text == FULL.text:
        return FULL
    if draw := RANDOM.fullmatch(text):
        return random(int(draw[1]), int(draw[2]))
    if text.startswith("random:"):
        return Source("selection", text)
    if apart := HELD_OUT_FORM.fullmatch(text):
        return held_out(int(apart[1]))
    match = REPO.fullmatch(text) if commit else None
    return Source("repo", match[1], revision=match[2], config=match[3]) if match else Source("path", text)


def without_machine(path: str) -> str:
    """A path as outputs may name it: an absolute one keeps only its last part. Other text stays."""
    return Path(path).name if Path(path).is_absolute() else path


def exists(path: Path) -> bool:
    """Whether there is something at `path`; what cannot be a path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, a folder that may not be read
        return False


@dataclass(frozen=True)
class NetworkSource:
    """Where a trained network comes from; `name` is the folder, OWNER/REPO or the architecture with its tag of weights."""

    kind: NetworkKind
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """How outputs, command lines, messages and timm write it."""
        plain = self.kind in ("default", "timm")
        return ("" if plain else f"{self.kind}:") + self.name + (f"@{self.revision}" if self.revision else "")

    @property
    def stated(self) -> "NetworkSource":
        """The same as outputs may name it: of an absolute folder only the last part."""
        return replace(self, name=without_machine(self.name)) if self.kind == "local-dir" else self

    @property
    def architecture(self) -> str:
        """What stands before the dot of a timm or torchvision name."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """Which weights a timm or torchvision name asks for; "" where it leaves that open."""
        return self.name.partition(".")[2]


def parse_network(text: str | NetworkSource, default: str | None = None) -> NetworkSource:
    """The NetworkSource that a person means by `text`; "default" is what `default` says, where that is given.

    UserError for an hf-hub: that names no repo. Whether timm and torchvision know a name is for them to say.
    """
    if isinstance(text, NetworkSource):
        return text
    if text == "default":
        return NetworkSource("default", text) if default is None else parse_network(default)
    kind, _, rest = text.partition(":")
    if kind == "hf-hub" and rest:
        repo = repository(rest)
        if repo.config:
            raise UserError(f"network {text!r} has a part ':{repo.config}'; wanted hf-hub:OWNER/REPO[@REVISION].")
        return NetworkSource("hf-hub", repo.name, repo.revision)
    if kind == "local-dir" and rest:
        return NetworkSource("local-dir", rest)
    if kind == "torchvision" and rest:
        return NetworkSource("torchvision", rest)
    if not rest and exists(Path(text)) and Path(text).is_dir():
        return NetworkSource("local-dir", text)
    return NetworkSource("timm", text)


def pushed(repo: str) -> NetworkSource:
    """The network in the model repo OWNER/REPO."""
    return NetworkSource("hf-hub", repo)


def saved(folder: Path | str) -> NetworkSource:
    """The network that was saved in `folder`."""
    return NetworkSource("local-dir", str(folder))
