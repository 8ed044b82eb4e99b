"""A commit is what is read: its own files, or a line that says which are missing, whatever the Hub does."""

import json
import re

import datasets
import pytest
from conftest import run_script
from test_faults import QUICK
from test_hub import server  # noqa: F401  (the fixture)
from test_publishing import hub  # noqa: F401  (the fixture)

from rd3_utils import hub as the_hub
from rd3_utils import launch
from rd3_utils.data import hub_tables
from rd3_utils.errors import UserError

MAKE = (
    QUICK
    + """
import io, json, tempfile
from pathlib import Path
import numpy as np, torch
import pyarrow as pa
from pyarrow import parquet
from huggingface_hub import HfApi
from rd3_utils.data import embedded, images, tables
from rd3_utils.protocols import benchmark
digits, truth = benchmark.load("digits"), {}
dm = images.read("digits-dm-ipc1", digits)
def tinted(k):
    return images.make("x", dm.images ^ k, dm.labels, dm.class_names, "x")
def push(repo, k, path="data/train-00000-of-00001.parquet", **more):
    with tempfile.TemporaryDirectory() as folder:
        data = images.save(tinted(k), Path(folder)).read_bytes()
    files = {path: data, **{name: text.encode() for name, text in more.items()}}
    return pushing.push(pushing.Target(repo, "dataset"), lambda commit, there: files, str(k)).commit
def known(repo, k, name="", **more):
    truth[f"{repo}@{push(repo, k, **more)}{name}"] = tinted(k).fingerprint
    return list(truth)[-1].partition("@")[2][:40]
"""
)
REPOS = (
    MAKE
    + """
first = known("alice/MySet", 1)
HfApi().create_tag("alice/MySet", tag="v1", repo_type="dataset")
known("alice/my_set", 2)
known("alice/my-set", 3)
known("alice/MySet", 4)
card = "---\\nconfigs:\\n" + "".join(
    f"- config_name: {name}\\n  data_files:\\n  - split: train\\n    path: {name}/*\\n" for name in "ab") + "---\\n"
push("alice/several", 5, "a/x.parquet", **{"README.md": card})
known("alice/several", 6, ":b", path="b/x.parquet")
truth[list(truth)[-1][:-1] + "a"] = tinted(5).fingerprint
print(json.dumps([first, truth, known("alice/unread", 7, **{"README.md": "# x"})]))
"""
)
READ = (
    QUICK
    + """
import json, os, urllib.request
from rd3_utils import hub
from rd3_utils.data import images
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark
digits = benchmark.load("digits")
def read(source):
    try:
        found = images.read(source, digits)
        return [found.commit, found.fingerprint]
    except UserError as error:
        return str(error)
def fault(kind):
    url = os.environ["HF_ENDPOINT"] + "/_mini/fault"
    for method, data in (("DELETE", b""), ("POST", json.dumps({"match": kind, "status": 503, "times": 10**6}).encode())):
        if kind or method == "DELETE":
            urllib.request.urlopen(urllib.request.Request(url, data, method=method)).read()
"""
)
KINDS = {  # every kind of call that a set takes, and what it is asked for
    "a commit": "GET /api/datasets/alice/[^/]*/revision/",
    "its files": "GET /api/datasets/alice/[^/]*/tree/",
    "the head of a file": "HEAD /.*/resolve/",
    "a file": "GET /.*/resolve/",
    "a large file": "(HEAD|GET) /blob/",
    "anything": "(HEAD|GET) /[^_]",
}


@pytest.fixture(scope="module")
def pinned(server, hub, tmp_path_factory):  # noqa: F811
    """(first commit of alice/MySet, {SOURCE at a commit: fingerprint}, a commit that nobody read, environment of a cache)."""
    done = hub.python(REPOS)
    assert done.code == 0, done.err
    first, truth, unread = json.loads(done.out.splitlines()[-1])
    del truth[f"alice/unread@{unread}"]
    home = {"HF_HOME": str(tmp_path_factory.mktemp("pinned") / "home")}
    code = f"{READ}print(json.dumps([read(source) for source in {[*truth, 'alice/MySet@v1', 'alice/MySet']!r}]))"
    done = server.python(code, **home)
    assert done.code == 0, done.err
    *found, tag, _ = json.loads(done.out)
    assert [fingerprint for _, fingerprint in found] == list(truth.values()) and tag[0] == first
    # from here on, the tag and the branch are elsewhere
    moved = hub.python(f"{MAKE}push('alice/MySet', 8)\nfor change in (HfApi().delete_tag, HfApi().create_tag):\n"
                       "    change('alice/MySet', tag='v1', repo_type='dataset')")  # fmt: skip
    assert moved.code == 0, moved.err
    return first, truth, unread, home


@pytest.mark.parametrize("away", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "not there"])
def test_a_commit_is_its_own_files_or_a_refusal_where_the_hub_is_away(server, pinned, away):  # noqa: F811
    """Read last were other commits, repos whose names differ in case and dashes, and another config."""
    first, truth, unread, home = pinned
    asked = [*truth, f"alice/several@{next(iter(k for k in truth if 'several' in k))[14:54]}", f"alice/unread@{unread}",
             "alice/MySet@v1"]  # fmt: skip
    done = server.python(f"{READ}print(json.dumps([read(source) for source in {asked!r}]))", **home, **away)
    assert done.code == 0, done.err
    *found, left_out, not_here, tag = json.loads(done.out)
    assert found == [[re.search("[0-9a-f]{40}", source)[0], fingerprint] for source, fingerprint in truth.items()]
    assert "has configs a, b; say which" in left_out
    assert "alice/unread" in not_here and ("HF_HUB_OFFLINE is set" in not_here or "did not answer" in not_here), not_here
    if "HF_HUB_OFFLINE" in away:  # as it last was; elsewhere nothing is known of tags
        assert tag == [first, truth[f"alice/MySet@{first}"]]


def test_whichever_call_meets_503_a_commit_is_its_own_files_or_a_refusal_that_says_what_was_asked(server, pinned):  # noqa: F811
    first, truth, unread, home = pinned
    names = {"its files": "the list of its files of alice/unread", "a large file": "data/train-00000-of-00001.parquet of alice"}
    code = f"""{READ}
for kind in {list(KINDS.values())!r}:
    fault(kind)
    print(json.dumps([read(source) for source in {[*truth, f"alice/unread@{unread}"]!r}]))
    fault(None)
print(json.dumps(read("alice/unread@{unread}")))
"""
    done = server.python(code, **home)
    assert done.code == 0, done.err
    *rows, healed = map(json.loads, done.out.splitlines())
    for kind, (*found, not_here) in zip(KINDS, rows, strict=True):
        assert [fingerprint for _, fingerprint in found] == list(truth.values()), kind
        assert "did not answer" in not_here and names.get(kind, "alice/unread") in not_here, (kind, not_here)
    assert healed[0] == unread


MOVED = (
    MAKE
    + """
import dataclasses
push("alice/real", 9, "data/train-00000-of-00001.parquet")
push("alice/real", 10, "data/test-00000-of-00001.parquet")
data = dataclasses.replace(digits.data, repo="alice/real", train_images=0, test_images=0, config="default")
real = dataclasses.replace(digits, data=data)
train = tables.real(real, "train")
push("alice/real", 11, "data/test-00000-of-00001.parquet")
test = tables.real(real, "test")
print(train.commit == test.commit, images.of_table(test).fingerprint == tinted(10).fingerprint)
"""
)


def test_train_and_test_split_are_of_one_commit_though_the_branch_moves_between(hub):  # noqa: F811
    done = hub.python(MOVED)
    assert done.code == 0 and done.out.split() == ["True", "True"], done.err


def test_the_processes_must_agree_on_the_test_split(tmp_path, monkeypatch, test_set):
    agreed = []
    monkeypatch.setattr(launch, "agree", lambda accelerator, value, name: agreed.append(value))
    done = run_script(tmp_path, "train_student", "--protocol", "hard-label-v1", "--set", "training.epochs=1")
    assert done.code == 0 and test_set.fingerprint in agreed, done.err


BARE = (
    MAKE
    + """
names = list(reversed(dm.class_names))
def png(image):
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
cells = [{"bytes": png(image), "path": None} for image in dm.images]
columns = {"image": cells, "label": [names.index(dm.class_names[k]) for k in dm.labels]}
bare = io.BytesIO()
parquet.write_table(pa.table(columns), bare)  # without what `datasets` writes into the file
listed = "".join(f"          '{k}': '{name}'\\n" for k, name in enumerate(names))
card = ("---\\ndataset_info:\\n  features:\\n  - name: image\\n    dtype: image\\n  - name: label\\n    dtype:\\n"
        "      class_label:\\n        names:\\n" + listed + "---\\n")
legacy = {"x": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
made = {
    "card": {"data/train-00000-of-00001.parquet": bare.getvalue(), "README.md": card.encode()},
    "legacy": {"train.parquet": bare.getvalue(), "dataset_infos.json": json.dumps(legacy).encode()},
    "folders": {f"train/{dm.class_names[k]}/{i}.png": png(dm.images[i]) for i, k in enumerate(dm.labels)},
}
for name, files in made.items():
    pushing.push(pushing.Target(f"alice/{name}", "dataset"), lambda commit, there: files, "x")
    print(images.read(f"alice/{name}", digits).fingerprint == dm.fingerprint)
"""
)


def test_class_names_come_from_the_card_from_old_repos_json_and_from_folders(hub):  # noqa: F811
    done = hub.python(BARE)
    assert done.code == 0 and done.out.split() == ["True"] * 3, done.out + done.err


def shards(where, *names, count=2):
    return [f"{where}{name}-0000{k}-of-0000{count}.parquet" for name in names for k in range(count)]


def card(*configs):
    return "---\n" + json.dumps({"configs": list(configs)}) + "\n---\n"


def entry(name, *splits, **more):
    return {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits], **more}


LAYOUTS = {  # files, card, config, split: what repos on the Hub look like
    "shards": (shards("data/", "train", "valid"), "", "default", "valid"),
    "benchmark": (shards("plain_text/", "test", "train"), card(entry("plain_text", ("train", "plain_text/train-*"),
                                                                     ("test", "plain_text/test-*"))), "plain_text", "test"),
    "published": ([*shards("set/", "train"), "set/images.png", "set/card.md", "set/distilled.json"],
                  card(entry("set", ("train", "set/train-*"))), "set", "train"),
    "only config": (["b.parquet"], card(entry("any", ("train", "*.parquet"))), None, "train"),
    "default config": (["a/x.parquet", "b/x.parquet"],
                       card(entry("a", ("train", "a/*")), entry("b", ("train", "b/*"), default=True)), None, "train"),
    "several patterns": (["y/1.parquet", "x/2.parquet", "x/1.parquet"], card(entry("default", ("train", ["y/*", "x/*"]))), None,
                         "train"),
    "no splits": (["z/1.parquet", "a.parquet"], card({"config_name": "default", "data_files": "**/*.parquet"}), None, "train"),
    "a folder's config": (["q/train.parquet", "train.parquet"], card({"config_name": "c", "data_dir": "q"}), "c", "train"),
    "split folders": (["train/1.parquet", "train/0.parquet", "validation/0.parquet"], "", None, "validation"),
    "split names": (["my-train.parquet", "my_test.parquet", "train_2.parquet"], "", None, "train"),
    "other words": (["dev.parquet", "training.parquet"], "", None, "validation"),
    "all is train": (["x.parquet", "y/z.parquet", ".hidden/a.parquet", "__x__/b.parquet", ".h.parquet"], "", None, "train"),
    "image folder": ([f"train/{name}/{k}.png" for name in ("a b", "a", "a-b") for k in range(3)], "", None, "train"),
    "plain image folder": ([f"{name}/{k}.JPEG" for name in "ba" for k in (10, 9)], "", None, "train"),
    "deep": (["x/train/a.parquet", "x/train/b/c.parquet", "y/train-1/d.parquet"], "", None, "train"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_split_is_the_files_that_datasets_would_take(name, tmp_path, monkeypatch):
    files, text, config, split = LAYOUTS[name]
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "README.md").write_text(text or "# no front matter\n")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        builder = datasets.load_dataset_builder(str(tmp_path), name=config)
    wanted = [str(path).removeprefix(f"{tmp_path}/") for path in builder.config.data_files[split]]
    monkeypatch.setattr(the_hub, "files", lambda repo, commit: dict.fromkeys(["README.md", *reversed(files)], 1))
    monkeypatch.setattr(the_hub, "downloads", lambda repo, commit, paths: [tmp_path / path for path in paths])
    found = hub_tables.split_on_hub("a/b", "1" * 40, config, split)
    assert list(found.files) == list(dict.fromkeys(wanted)) and found.size == len(found.files)


UNCLEAR = {  # files, card, config, split and what is said
    "archive": (["train.zip", "x.csv"], "", None, "train", "split 'train' is train.zip, wanted parquet files"),
    "nothing": ([".gitattributes"], "", None, "train", "has no split 'train'; its splits are none"),
    "two configs": (["a.parquet"], card(entry("a", ("train", "a*")), entry("b", ("train", "b*"))), None, "train",
                    "it has configs a, b; say which, as in OWNER/REPO:a"),
    "no such config": (["a.parquet"], card(entry("a", ("train", "a*"))), "c", "train", "no config or folder 'c'; its config"),
    "no such split": (shards("data/", "train"), "", None, "test", "no split 'test'; its splits are train, its files data/tr"),
    "metadata": (["train/a/1.png", "train/a/2.png", "train/metadata.csv"], "", None, "train", "has train/metadata.csv, wanted"),
    "loose images": (["1.png", "2.png"], "", None, "train", "has 1.png, 2.png, wanted each image in the folder of its class"),
    "configs no list": (["a.parquet"], "---\nconfigs: 3\n---\n", None, "train", "`configs` on its card is no list"),
    "bad YAML": (["a.parquet"], "---\na: [\n---\n", None, "train", "no YAML"),
    "bad pattern": (["a.parquet"], card(entry("a", ("train", "x**y"))), None, "train", "cannot be read as a dataset: its card"),
    "bad features": (["a.parquet"], "---\ndataset_info:\n  features: [3]\n---\n", None, "train", "its card or dataset_infos"),
    "aliases": (["a.parquet"], "---\na: &x [1]\nb: *x\n---\n", None, "train", "YAML with aliases"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_files_do_not_tell_is_asked_for_and_they_are_named(name, tmp_path, monkeypatch):
    files, text, config, split, said = UNCLEAR[name]
    (tmp_path / "README.md").write_text(text)
    monkeypatch.setattr(the_hub, "files", lambda repo, commit: dict.fromkeys(["README.md", *files], 1))
    monkeypatch.setattr(the_hub, "downloads", lambda repo, commit, paths: [tmp_path / path for path in paths])
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        hub_tables.split_on_hub("a/b", "1" * 40, config, split)
    assert "a/b@11111111 cannot be read as a dataset" in str(refusal.value) and "\n" not in str(refusal.value)


ODD = (
    MAKE
    + """
from rd3_utils.errors import UserError
from rd3_utils.publishing import dataset_repo
for name in ("10", "train", "my set"):
    for image, k in zip(dm.images, dm.labels):
        where = Path(name, dm.class_names[k])
        where.mkdir(parents=True)
        from PIL import Image
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(where / "0.png")
    try:
        script("rd3_utils", "publish", name, "alice/odd", "--benchmark", "digits")
        print(images.read(f"alice/odd:{name}", digits).fingerprint == dm.fingerprint)
    except (SystemExit, UserError) as stop:
        print(stop.code)
before = HfApi().dataset_info("alice/odd").sha
name, target = "train", pushing.Target("alice/odd", "dataset")
with tempfile.TemporaryDirectory() as folder:
    other = images.make(name, 255 - dm.images, dm.labels, dm.class_names, name)
    files = dataset_repo.image_files(target, other, {}, digits, Path(folder))
    try:
        dataset_repo.check_pushed(target, pushing.Pushed(before, "", True), name, files)
    except UserError as error:
        print(error)
"""
)


def test_what_is_published_is_read_back_and_a_name_that_would_not_be_is_refused_before_anything_is_sent(hub, tmp_path):  # noqa: F811
    done = hub.python(ODD, cwd=tmp_path)
    assert done.code == 0, done.err
    said = [line for line in done.out.splitlines() if not line.startswith("push")]
    assert said[:3] == ["True", "True", "2"] and "'my set', which alice/odd would not give back" in done.err, (
        done.out + done.err
    )
    assert "alice/odd:train is read from train/train-00000-of-00001.parquet" in said[3] and "other images" in said[3]
    assert hub.commits("alice/odd", "datasets") == 2
