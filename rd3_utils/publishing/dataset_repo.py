"""Image sets and soft labels on the Hub: dataset repos that --distilled OWNER/REPO and --soft-labels OWNER/REPO read.

    <images>/train-*.parquet, images.png, distilled.json, card.md      a config of `datasets`
    soft_labels/<images>@<fingerprint8>/<teachers8>-<views12>-s<seed>/labels-*.safetensors, card.md, index.json
    README.md                                                          the dataset card

A repo may hold several of both. The card joins their card.md between two marks; what its owner writes elsewhere on it, and
keys of its front matter, stay.
"""

import contextlib
import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from rd3_utils import bounded, command_lines, hub, pushing, units
from rd3_utils.data import datacards, hub_tables, provenance, soft_labels, sources
from rd3_utils.data import images as image_sets
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import TagTaken, UserError
from rd3_utils.options import LabelOptions, TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.publishing import plots
from rd3_utils.scoring import report as reports
from rd3_utils.text import escape, fenced, show, table

BATCH = 2e9  # bytes of label shards in one commit, so that a lost connection costs no more
BEGIN = "<!-- rd3: from here to the end mark a command wrote this, and writes it again -->"
END = "<!-- rd3: end -->"
OURS = re.compile(rf"^{BEGIN}[ \t]*\r?$(?:(?!^{BEGIN}).)*?^{END}[ \t]*\r?$", re.DOTALL | re.MULTILINE)
BLANK_LINES = re.compile(r"\A(?:[ \t]*\r?\n)+")  # at the beginning
LABELS_FOLDER = "soft_labels/"


class LabelUpload:
    """Shards of the store in folder `where` on their way to the Hub while others are made: a context manager.

    `finished(paths)` comes from the main process and returns at once; one upload at a time runs in the background and
    takes all shards that are whole. A crash loses what was finished since the upload before it began, on the Hub only: the
    shards of other processes after the main process's last own one, and the one being uploaded. A fault here is told and
    mended by `publish_labels`, which sends whatever is not there. Pull requests get everything at once, at the end.
    """

    def __init__(self, target: pushing.Target, where: Path) -> None:
        self.target, self.where = target, where
        self.pool = ThreadPoolExecutor(1)
        self.coming: Future[None] | None = None
        self.sent: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def finished(self, paths: Sequence[Path]) -> None:
        """Send those of `paths` that were not sent, unless an upload is still running."""
        if self.target.create_pr or (self.coming is not None and not self.coming.done()):
            return
        if self.coming is not None:
            self.coming.result()  # an error that is none of the user's
        self.coming = self.pool.submit(self.send, [path for path in paths if path not in self.sent])

    def send(self, paths: list[Path]) -> None:
        try:
            push_shards(self.target, self.where, paths)
            self.sent |= set(paths)
        except UserError as error:
            print(f"labels go on, the upload is tried again at the end: {error}", file=sys.stderr, flush=True)


def store_in_repo(where: Path) -> str:
    """The folder in a repo of the label store in the local folder `where`."""
    return f"{LABELS_FOLDER}{where.parent.name}/{where.name}"


def push_shards(target: pushing.Target, where: Path, paths: Sequence[Path]) -> None:
    """Push shards in commits of about BATCH bytes. Where one replaces another, the index that names the other goes first."""
    target, store = dataclasses.replace(target, tag=None), store_in_repo(where)
    group: list[Path] = []
    for path in paths:
        group.append(path)
        if path == paths[-1] or sum(p.stat().st_size for p in group) > BATCH:
            files = {f"{store}/{p.name}": p for p in group}

            def build(commit: str, there: dict[str, Any], files: dict[str, Path] = files) -> dict[str, Path | bytes | None]:
                replaced = any(path in there and not pushing.same(there[path], file) for path, file in files.items())
                return {**files, **({f"{store}/index.json": None} if replaced else {})}

            pushing.push(target, build, f"labels {group[0].name} and on" if len(group) > 1 else f"labels {group[0].name}")
            group = []


def publish_labels(
    target: pushing.Target, where: Path, images: ImageSet | None, about: dict, benchmark: Benchmark, command: str
) -> None:
    """Push the finished store in `where`: shards that are not there, then in one commit index, card and the `images`.

    `images` is None where they are published elsewhere, `about` what is known of how they were made; `command` is that of
    train_student.py which uses the labels.
    """
    index = soft_labels.read_index(where)
    store = store_in_repo(where)
    shards = [where / entry["file"] for entry in index["shards"]]
    size = sum(entry["bytes"] for entry in index["shards"])
    print(f"pushing {len(shards)} shards, {units.size(size)}, to {target.url}", flush=True)
    with tempfile.TemporaryDirectory() as folder, said_how_to_repeat():
        files: dict[str, Path | bytes] = {f"{store}/{path.name}": path for path in (*shards, where / "index.json")}
        files[f"{store}/card.md"] = label_section(index, store, benchmark, command).encode()
        if images is not None:
            files |= image_files(target, images, about, benchmark, Path(folder))
        if not target.create_pr:
            push_shards(target, where, shards)
        tags = {"rd3", "soft-labels", "knowledge-distillation", f"benchmark-{benchmark.name}"}
        message = f"index of the soft labels of {index['images']['name']}"
        pushed = pushing.push(target, building(target, files, tags), message)
        if images is not None:
            check_pushed(target, pushed, images.name, files)
        pushing.say(pushed)


def publish_images(target: pushing.Target, images: ImageSet, about: dict, benchmark: Benchmark) -> None:
    """Push an image set, with what `about` (distilled.json, or {}) says of how it was made, in one commit."""
    with tempfile.TemporaryDirectory() as folder, said_how_to_repeat():
        files = image_files(target, images, about, benchmark, Path(folder))
        size = sum(len(f) if isinstance(f, bytes) else f.stat().st_size for f in files.values())
        print(f"pushing {len(images)} images, {units.size(size)}, to {target.url}", flush=True)
        tags = {"rd3", *(["dataset-distillation"] if about else []), f"benchmark-{benchmark.name}", f"ipc-{images.nominal_ipc}"}
        pushed = pushing.push(target, building(target, files, tags), f"{images.name}: {len(images)} images")
        check_pushed(target, pushed, images.name, files)
        pushing.say(pushed)


def check_name(repo: str, name: str) -> None:
    """UserError for a name of an image set that a reader of OWNER/REPO:NAME would not take back."""
    meant = sources.in_repo("owner/repo", name)
    try:
        same = sources.repository(meant.text) == meant
    except UserError:
        same = False
    if not same or "/" in name or name.startswith((".", "__")) or f"{name}/" == LABELS_FOLDER:
        raise UserError(
            f"the image set is called {name!r}, which {repo} would not give back: wanted letters of English, digits, '_', '-' "
            "and '@', not '__' first, and not soft_labels; rename its folder."
        )


def check_pushed(target: pushing.Target, pushed: pushing.Pushed, name: str, files: Mapping[str, Path | bytes]) -> None:
    """UserError unless a reader of the set `name` at the commit that was made gets the images among `files`, bit for bit."""
    images = {path: source for path, source in files.items() if path.endswith(".parquet")}
    read = hub_tables.split_on_hub(target.repo, pushed.commit, name, "train").files
    with hub.asking(target.repo, pushed.commit, target.kind):
        there = pushing.listing(target, pushed.commit)
    other = [path for path in read if path not in images or not pushing.same(there[path], images[path])]
    if other or len(read) != len(images):
        raise UserError(
            f"{target.repo}:{name} is read from {', '.join(read[:3])} at {pushed.commit[:8]}, and other images were pushed: "
            "does its README.md give this name to other files?"
        )


@contextlib.contextmanager
def said_how_to_repeat() -> Iterator[None]:
    """A context in which a failed push ends with the command that tries again: the same one, which sends what is missing."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else hub.one_line(error)
        again = command_lines.repeated(sys.argv, other_tag=isinstance(error, TagTaken))
        raise UserError(f"{said} Nothing is lost, what was made is here. Push what is missing with: {again}") from error


def building(
    target: pushing.Target, files: dict[str, Path | bytes], tags: set[str]
) -> Callable[[str, dict[str, Any]], dict[str, Path | bytes | None]]:
    """The function that pushing.push asks: `files`, the card of the repo as it then is, and no old shards beside ours."""
    folders = {path.rsplit("/", 1)[0] for path in files}
    ours = re.compile(r"(labels-[^/]*\.safetensors|train-[^/]*\.parquet|distilled\.json)")

    def build(commit: str, there: dict[str, Any]) -> dict[str, Path | bytes | None]:
        stale = {
            path: None
            for path in there
            if path not in files and path.rpartition("/")[0] in folders and ours.fullmatch(path.rpartition("/")[2])
        }
        sections = {path: pushing.text(target, commit, path) for path in there if is_section(path, there)}
        sections |= {
            path: data.decode() for path, data in files.items() if path.endswith("/card.md") and isinstance(data, bytes)
        }
        old = pushing.text(target, commit, "README.md") if "README.md" in there else ""
        return {**files, **stale, "README.md": dataset_card(target.repo, old, sections, tags).encode()}

    return build


def is_section(path: str, there: Iterable[str]) -> bool:
    """Whether a file of a repo is the card.md of a label store or an image set, and not one of its owner's."""
    folder = path.removesuffix("/card.md")
    mine = folder.startswith(LABELS_FOLDER) or any(other.startswith(f"{folder}/train-") for other in there)
    return mine and folder != path


def dataset_card(repo: str, old: str, sections: dict[str, str], tags: Iterable[str]) -> str:
    """README.md of a dataset repo: its `old` text with our part, the `sections` {path of card.md: text}, made anew.

    UserError where the old one has front matter that is no YAML, or no list where ours is to be added.
    """
    ours = sorted(sections, key=lambda path: (path.startswith(LABELS_FOLDER), path))
    body = "\n\n".join([BEGIN, *(sections[path].strip() for path in ours), END])
    try:
        before = datacards.front_matter(old)
    except bounded.Refused as refused:
        raise UserError(f"README.md of {repo} begins with front matter that cannot be read ({refused}); mend it.") from refused
    text, times = OURS.subn(lambda _: body, before.text, count=1)
    if not times:
        text = "\n\n".join([before.text.rstrip() if before.text.strip() else f"# {escape(repo.split('/')[1])}", body])
    entries: dict[str, Any] = {"tags": with_tags(repo, before.table, tags)}
    names = [path.removesuffix("/card.md") for path in ours if not path.startswith(LABELS_FOLDER)]
    if names:
        entries["configs"] = with_configs(repo, before.table, names)
    if "task_categories" not in before.table:
        entries["task_categories"] = ["image-classification"]
    return f"---\n{datacards.with_entries(before, entries)}\n---\n\n{BLANK_LINES.sub('', text).rstrip()}\n"


def with_tags(repo: str, front: dict, tags: Iterable[str]) -> list:
    """The owner's tags on a card whose front matter is `front`, then those of ours that are not among them."""
    there = front.get("tags") or []
    there = [there] if isinstance(there, str) else there
    if not isinstance(there, list):
        raise UserError(f"README.md of {repo} states tags that are no list; mend them, then push again.")
    return [*there, *sorted(set(tags) - {tag for tag in there if isinstance(tag, str)})]


def with_configs(repo: str, front: dict, names: list[str]) -> list:
    """The owner's configs on a card whose front matter is `front`, then those of the image sets `names`."""
    there = front.get("configs") or []
    there = [there] if isinstance(there, dict) else there
    if not isinstance(there, list) or not all(isinstance(entry, dict) for entry in there):
        raise UserError(f"README.md of {repo} states configs that are no list of tables; mend them, then push again.")
    made = [{"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]} for name in names]
    return [*(entry for entry in there if str(entry.get("config_name")) not in names), *made]


def image_files(
    target: pushing.Target, images: ImageSet, about: dict, benchmark: Benchmark, folder: Path
) -> dict[str, Path | bytes]:
    """{path in the repo: local path or bytes} of an image set; parquet and picture are written into `folder`."""
    parquet = image_sets.save(images, folder)
    plots.image_grid(images, folder / "images.png")
    files: dict[str, Path | bytes] = {f"{images.name}/{path.name}": path for path in (parquet, folder / "images.png")}
    if about:
        files[f"{images.name}/{provenance.NAME}"] = f"{json.dumps(about, indent=1)}\n".encode()
    files[f"{images.name}/card.md"] = image_section(target.repo, images, about, benchmark).encode()
    return files


def about_images(source: str, images: ImageSet, target: pushing.Target) -> dict:
    """What distilled.json says of how `images`, read from `source`, were made; {} where there is no such file.

    UserError where it speaks of other images, and for a name under which they would not be read from `target`.
    """
    check_name(target.repo, images.name)
    about = provenance.stated_by(sources.parse(source))
    if about and about.get("fingerprint") != images.fingerprint:
        stated = str(about.get("fingerprint"))[:12]
        raise UserError(f"distilled.json of {source} speaks of other images ({stated}) than lie beside it; remove it.")
    own = provenance.stated_by(sources.parse(images.name))  # METHOD:ipc=K
    return about or (own if own.get("fingerprint") == images.fingerprint else {})


def image_section(repo: str, images: ImageSet, about: dict | None, benchmark: Benchmark) -> str:
    """The part of a dataset card on one image set."""
    about, data = dict(about or {}), benchmark.data
    selected = images.origin if images.origin.is_selection else None
    made_from = {"repo": images.origin.repo or data.repo, **({"commit": images.commit} if images.commit or selected else {})}
    source = about.pop("source", made_from)
    rows: list[list] = [
        ["", images.name],
        ["method", about.pop("method", None) or (f"real images, {selected}" if selected else "not stated")],
        ["images", f"{len(images)} of {images.images.shape[-1]} px, {images.ipc or 'various'} per class"],
        ["classes", len(images.class_names)],
        ["benchmark", f"{benchmark.name}: {benchmark.title}"],
        ["made from", source["repo"] + (f" at {source['commit']}" if source.get("commit") else "")],
        ["fingerprint (SHA-256 of pixels, labels, class names)", images.fingerprint],
    ]
    seconds, device = about.pop("seconds", None), about.pop("device", None)
    rows += [["synthesis", f"{seconds} s on {device}"]] if seconds is not None else []
    known = ("benchmark", "ipc", "fingerprint")
    rows += [[f"setting: {key}", setting(value)] for key, value in about.items() if key not in known]
    distilled = sources.in_repo(repo, images.name).text
    train = TrainOptions(benchmark=benchmark.name, distilled=distilled, teacher=("default",))
    return "\n\n".join(
        [
            f"## Images: {escape(images.name)}",
            table(rows),
            f"![{escape(images.name)}]({images.name}/images.png)",
            "Train on them and score the student on the real test split:",
            fenced(command_lines.launch(train, stated=["benchmark"]), "bash"),
            "No licence is stated here: that is for the owner of this repo, who also knows that of the data behind the images.",
        ]
    )


def setting(value: Any) -> str:
    """A setting of a synthesis as text; of a network, what tells it from others."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {show(value[key])}" for key in value)
    return show(value)


def label_section(index: dict, store: str, benchmark: Benchmark, command: str) -> str:
    """The part of a dataset card on one label store."""
    images, size = index["images"], sum(entry["bytes"] for entry in index["shards"])
    rows = [
        ["", store.removeprefix(LABELS_FOLDER)],
        ["images", f"{images['name']}, {images['images']} of them, fingerprint {images['fingerprint']}"],
        ["images from", f"commit {images['commit']}" if images.get("commit") else "not on the Hub when they were labelled"],
        ["benchmark", f"{benchmark.name}: {benchmark.title}"],
        ["epochs", index["epochs"]],
        ["size", f"{units.size(size)} in {len(index['shards'])} files"],
        ["stored as", f"logits at temperature 1, {index['label_dtype']}"],
        ["views", f"{index['views_digest']}, seed {index['views_seed']}"],
        ["views per teacher pass", f"{index['forward_batch']} on {index['device']}"],
    ]
    rows += [["recognised", f"{reports.percent(share)} % of the images"] for share in soft_labels.recognised(index).values()]
    rows += [["rule of the ensemble", index["ensemble"]]] if len(index["teachers"]) > 1 else []
    teachers = [["teacher", "architecture", "commit", "SHA-256 of the weights", f"top-1 % on {benchmark.name}"]]
    for t in index["teachers"]:
        teachers.append([t["source"], t["architecture"], t["commit"], t["sha256"], reports.percent(t["top1"])])
    parts = [f"## Soft labels: {escape(images['name'])}", table(rows), table(teachers)]
    return "\n\n".join([*parts, "Train on them; shards are fetched as they are needed:", fenced(command, "bash")])


def train_command(options: LabelOptions, repo: str, images: ImageSet) -> str:
    """The command of train_student.py that uses the labels in `repo`, made with `options`, wherever it is given."""
    distilled = sources.in_repo(repo, images.name).text if options.with_images else options.distilled
    train = dataclasses.replace(options.for_training(), soft_labels=repo, distilled=distilled, teacher=(), data_dir=None)
    return command_lines.launch(train, spell=sources.without_machine)
