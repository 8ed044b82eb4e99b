"""Which files of a dataset repo, at a commit, are a split: told from their names and the repo's card, before any is fetched.

The rules are those of `datasets` for data without a script: `configs` of the card's front matter, else data/SPLIT-00000-of-*,
else split names in folders, else in file names, else all files are the train split. No repo is looked up by its name there:
of a repo that cannot be reached, `datasets` gives whatever it read last.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import datasets
from datasets.data_files import (
    DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME,
    DEFAULT_PATTERNS_SPLIT_IN_FILENAME,
    FILES_TO_IGNORE,
)
from fsspec.utils import glob_translate
from huggingface_hub import DatasetCardData

from rd3_utils import bounded, hub, limits
from rd3_utils.data import datacards
from rd3_utils.errors import UserError, shortened

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SHARD = re.compile(r"data/(?P<split>\w+(?:\.\w+)*)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*")
CONVERTED = "refs/convert/"  # the Hub's own parquet of a repo: a folder for each config
LEGACY = "dataset_infos.json"  # where old repos state what now stands in their card
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # labels of an image folder that are not its folders' names
STATED = (ValueError, TypeError, KeyError, AttributeError, re.error)  # of what is stated wrongly: features, patterns


@dataclass(frozen=True)
class HubSplit:
    """The files at `commit` that are one split, in the order of its rows: parquet, or images in a folder for each class."""

    repo: str
    commit: str
    files: tuple[str, ...]
    kind: Literal["parquet", "images"]
    size: int  # bytes
    features: datasets.Features | None = None  # of the columns, where the repo states them

    @property
    def class_names(self) -> list[str]:
        """Names of the folders that its images lie in, sorted."""
        return sorted({class_of(path) for path in self.files})


def class_of(path: str) -> str:
    """The folder that an image lies in."""
    return PurePosixPath(path).parent.name


def split_on_hub(repo: str, commit: str, config: str | None, split: str, revision: str | None = None) -> HubSplit:
    """The files of `split` of a dataset repo at `commit`; of them nothing but the repo's card is fetched.

    `config` is one of the card's, or a folder that holds a set. A `revision` refs/convert/parquet is the Hub's own conversion
    of a repo with a script. UserError, which names the files, where it cannot be told what is meant.
    """
    listing = hub.files(repo, commit)
    try:
        return located(repo, commit, listing, config, split, (revision or "").startswith(CONVERTED))
    except (Unclear, bounded.Refused, *STATED) as error:
        said = str(error) if isinstance(error, Unclear) else f"its card or {LEGACY}: {hub.one_line(error)}"
        raise UserError(f"{repo}@{commit[:8]} cannot be read as a dataset: {said}") from error


class Unclear(Exception):
    """Why it cannot be told which files are meant, and what to give."""


def located(repo: str, commit: str, listing: dict[str, int], config: str | None, split: str, converted: bool) -> HubSplit:
    """The work of `split_on_hub`; raises Unclear, Refused and STATED."""
    card: dict[str, Any] = {}
    if "README.md" in listing:
        text = bounded.contents(hub.downloads(repo, commit, ["README.md"])[0], limits.MOST_JSON_BYTES, "a card").decode("utf-8")
        card = datacards.front_matter(text).table
    configs, infos = stated_configs(card), stated_infos(repo, commit, listing, card)
    name = config or default_config(configs, infos)
    entry = configs.get(name, {})
    folder = str(entry.get("data_dir") or "")
    if config and config not in configs:
        if (converted or config != "default") and any(path.startswith(f"{config}/") for path in listing):
            folder = config
        elif converted or configs or config not in {*infos, "default"}:
            raise Unclear(f"it has no config or folder '{config}'; its configs are {shortened(', '.join(configs) or 'none')}.")
    paths = [path.removeprefix(f"{folder}/") for path in listing if not folder or path.startswith(f"{folder}/")]
    splits = stated_splits(entry["data_files"], paths) if "data_files" in entry else named_splits(paths)
    if not splits.get(split):
        has = ", ".join(splits) or "none"
        raise Unclear(f"it has no split '{split}'; its splits are {shortened(has)}, its files {few(matching(['**'], paths))}.")
    kind, chosen = kind_of(splits[split], split)
    files = tuple(f"{folder}/{path}" if folder else path for path in chosen)
    features = entry.get("features") or infos.get(name, {}).get("features")
    return HubSplit(repo, commit, files, kind, sum(listing[path] for path in files), as_features(features))


def stated_configs(card: dict) -> dict[str, dict]:
    """{name: entry} of the `configs` of a card's front matter."""
    entries = card.get("configs") or []
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "config_name" in one for one in entries):
        raise Unclear("`configs` on its card is no list of entries with a config_name; mend README.md.")
    return {str(one["config_name"]): one for one in entries}


def stated_infos(repo: str, commit: str, listing: dict[str, int], card: dict) -> dict[str, dict]:
    """{config: what is stated of it} by `dataset_info` of a card's front matter and by LEGACY."""
    old: dict = {}
    if LEGACY in listing:
        old = bounded.read_json(hub.downloads(repo, commit, [LEGACY])[0], kind=f"a {LEGACY}")
        old = {"default" if len(old) == 1 else name: {"legacy": about} for name, about in old.items()}
        old = {name: {"features": one["legacy"].get("features")} for name, one in old.items()}
    stated = card.get("dataset_info") or []
    entries = [stated] if isinstance(stated, dict) else stated
    return {**old, **{str(one.get("config_name", "default")): one for one in entries}}


def default_config(configs: dict[str, dict], infos: dict[str, dict]) -> str:
    """The config that is meant where none is given: the only one, the one called default, or the one that says it is."""
    marked = [name for name, entry in configs.items() if len(configs) == 1 or name == "default" or entry.get("default")]
    if len(marked) == 1:
        return marked[0]
    if configs:
        raise Unclear(f"it has configs {shortened(', '.join(configs))}; say which, as in OWNER/REPO:{next(iter(configs))}.")
    return next(iter(infos)) if len(infos) == 1 else "default"


def as_features(stated: Any) -> datasets.Features | None:
    """`datasets.Features` of what a card (a list) or LEGACY (a table) states of them; None for nothing."""
    if not stated:
        return None
    if isinstance(stated, dict):
        return datasets.Features.from_dict(stated)
    data = DatasetCardData(dataset_info={"features": stated})
    return datasets.info.DatasetInfosDict.from_dataset_card_data(data)["default"].features


def stated_splits(data_files: Any, paths: list[str]) -> dict[str, list[str]]:
    """{split: files} of a config's `data_files`: a pattern, several, or a list of entries {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    if not all(isinstance(one, dict) for one in entries):
        entries = [{"split": "train", "path": entries}]
    splits: dict[str, list[str]] = {}
    for one in entries:
        patterns = one["path"] if isinstance(one["path"], list) else [one["path"]]
        splits[str(one["split"])] = matching(patterns, paths)
    return splits


def named_splits(paths: list[str]) -> dict[str, list[str]]:
    """{split: files} where nothing is stated of them, by their names."""
    shards: dict[str, list[str]] = {}
    for path in sorted(paths):
        if match := SHARD.fullmatch(path):
            shards.setdefault(match["split"], []).append(path)
    if shards:
        return shards
    for patterns in (DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, DEFAULT_PATTERNS_SPLIT_IN_FILENAME, {"train": ["**"]}):
        splits = {str(split): matching(some, paths) for split, some in patterns.items()}
        if any(splits.values()):
            return {split: files for split, files in splits.items() if files}
    return {}


def matching(patterns: Iterable[str], paths: list[str]) -> list[str]:
    """Those of `paths` that match one of the `patterns`, each once, in the order of patterns and then of names.

    Hidden files and those that speak of the data count only where a pattern names them.
    """
    matched: dict[str, None] = {}
    for pattern in patterns:
        pattern = str(pattern).removeprefix("./")
        regex, ignored = re.compile(glob_translate(pattern)), set(FILES_TO_IGNORE) - {PurePosixPath(pattern).name}
        fitting = (path for path in paths if regex.match(path) and hidden(path) == hidden(pattern))
        matched |= dict.fromkeys(sorted(path for path in fitting if PurePosixPath(path).name not in ignored))
    return list(matched)


def hidden(path: str) -> int:
    """How many parts of a path the system or Python hides: .name, and folders __name."""
    parts = PurePosixPath(path).parts
    return sum(part.startswith(".") for part in parts) + sum(part.startswith("__") for part in parts[:-1])


def kind_of(files: list[str], split: str) -> tuple[Literal["parquet", "images"], list[str]]:
    """(what the rows of a split lie in, those of its `files` that hold them); Unclear where they are neither."""
    endings = Counter(PurePosixPath(path).suffix.lower() for path in files)
    pictures = [path for path in files if PurePosixPath(path).suffix.lower() in IMAGES]
    if endings[".parquet"] and endings[".parquet"] >= len(pictures):
        return "parquet", [path for path in files if path.lower().endswith(".parquet")]
    if not pictures:
        raise Unclear(
            f"split '{split}' is {few(files)}, wanted parquet files, or images in a folder for each class; fetch and unpack "
            "it, and give that folder."
        )
    loose = [path for path in pictures if not class_of(path)]
    labelled = [path for path in files if PurePosixPath(path).name in METADATA]
    if loose or labelled:
        raise Unclear(
            f"split '{split}' has {few(loose or labelled)}, wanted each image in the folder of its class and nothing else to "
            "state labels; fetch it, sort the images into such folders, and give theirs."
        )
    return "images", pictures


def few(files: list[str]) -> str:
    """Names of files for a message: the first three, and how many there are."""
    more = f" ... ({len(files)} files)" if len(files) > 3 else ""
    return (shortened(", ".join(files[:3])) or "none") + more
