"""The Hub over real HTTP: a local server as its own process, the unmodified clients in another."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import warm
from conftest import PROJECT

from rd3_utils.data import embedded, sources
from rd3_utils.errors import UserError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running minihub: .url, and .python(code) that runs Python against it as its writer, with a cache of its own."""
    root = tmp_path_factory.mktemp("hub")
    log = root / "requests.jsonl"
    command = [
        sys.executable,
        str(PROJECT / "tests/hub/minihub.py"),
        "--root",
        str(root / "data"),
        "--port",
        "0",
        "--log",
        str(log),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    url = next(line for line in process.stdout if "http://" in line).split()[-1]
    settings = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_writer", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(root / "home"), "PYTHONPATH": str(PROJECT)}  # fmt: skip

    def python(code, cwd=None, **more):
        done = subprocess.run([warm.python(), "-c", code], cwd=cwd, text=True, capture_output=True, timeout=200,
                              env={**os.environ, **settings, **more})  # fmt: skip
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    def gets():
        """How many files were read from the storage origin so far."""
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return sum(line["m"] == "GET" and bool(line["cdn"]) for line in lines)

    yield SimpleNamespace(url=url, python=python, settings=settings, gets=gets, log=log)
    process.terminate()
    process.wait()


RUN = """
import sys, {module}
from rd3_utils import launch
sys.argv = {argv!r}
launch.run({module}.main, {module}.parse())
"""


def script(server, cwd, module, *arguments, **more):
    return server.python(RUN.format(module=module, argv=[module, *map(str, arguments)]), cwd, **more)


@pytest.fixture(scope="module")
def published(server, tmp_path_factory):
    """A distilled set and a teacher on the Hub: bench/digits-dm at tags v1 and (other images) main, bench/teacher."""
    done = server.python(
        """
import datasets, timm
from huggingface_hub import HfApi
import rd3_utils
from rd3_utils.data import embedded, images, tables
from rd3_utils.protocols import benchmark
from rd3_utils.learning import teachers, students
api, digits = HfApi(), benchmark.load("digits")
dm = datasets.Dataset.from_parquet(str(embedded.EMBEDDED / "digits-dm-ipc1" / "train-00000-of-00001.parquet"))
dm.push_to_hub("bench/digits-dm")
first = api.dataset_info("bench/digits-dm").sha
api.create_tag("bench/digits-dm", tag="v1", repo_type="dataset")
dm.select(list(reversed(range(10)))).push_to_hub("bench/digits-dm")
api.create_repo("bench/teacher")
api.upload_folder(repo_id="bench/teacher", folder_path=str(embedded.EMBEDDED / "digits-teacher-convnet3"))
print(first, api.dataset_info("bench/digits-dm").sha, api.model_info("bench/teacher").sha)
"""
    )
    assert done.code == 0, done.err
    return SimpleNamespace(**dict(zip(("v1", "main", "teacher"), done.out.split())))


def test_images_and_teacher_come_from_the_hub_at_a_commit_that_runs_record(server, published, tmp_path):
    what = "--distilled", "bench/digits-dm@v1", "--teacher", "hf-hub:bench/teacher", "--set", "training.epochs=2"
    done = script(server, tmp_path, "train_student", *what)
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("results/digits/*/digits-dm@*/convnet3/distilled-soft/seed0.json")
    run = json.loads(path.read_text())
    assert (run["images"]["source"], run["images"]["commit"]) == ("bench/digits-dm@v1", published.v1)
    assert (run["teachers"][0]["source"], run["teachers"][0]["commit"]) == ("hf-hub:bench/teacher", published.teacher)
    assert run["teachers"][0]["top1"] == 0.99
    other = script(server, tmp_path, "train_student", *what[2:], "--distilled", "bench/digits-dm")
    assert other.code == 0, other.err
    commits = {json.loads(p.read_text())["images"]["commit"] for p in tmp_path.glob("results/**/seed0.json")}
    assert commits == {published.v1, published.main}


PICKLED = """
import pathlib, torch
from huggingface_hub import HfApi
from rd3_utils.data import embedded, images
from safetensors.torch import load_file
api, folder = HfApi(), embedded.EMBEDDED / "digits-teacher-convnet3"
torch.save(load_file(folder / "model.safetensors"), "pytorch_model.bin")
api.create_repo("bench/pickled")
for path in (folder / "config.json", pathlib.Path("pytorch_model.bin")):
    api.upload_file(repo_id="bench/pickled", path_or_fileobj=str(path), path_in_repo=path.name)
"""


def test_a_teacher_whose_weights_are_a_pickle_is_refused_and_not_fetched(server, tmp_path):
    done = server.python(PICKLED, tmp_path)
    assert done.code == 0, done.err
    cache = tmp_path / "cache"
    done = script(server, tmp_path, "train_student", "--teacher", "hf-hub:bench/pickled", HF_HOME=str(cache))
    assert done.code == 2 and "has no model.safetensors" in done.err and "Traceback" not in done.err, done.err
    assert list(cache.rglob("config.json")) and not list(cache.rglob("*.bin"))


def test_a_commit_that_is_cached_needs_no_hub(server, published, tmp_path):
    what = "--distilled", f"bench/digits-dm@{published.v1}", "--protocol", "hard-label-v1", "--set", "training.epochs=1"
    assert script(server, tmp_path, "train_student", *what).code == 0
    offline = script(server, tmp_path, "train_student", *what, "--out", "again", HF_HUB_OFFLINE="1")
    assert offline.code == 0, offline.err
    moving = script(server, tmp_path, "train_student", "--distilled", "bench/digits-dm@v7", HF_HUB_OFFLINE="1")
    assert moving.code == 2 and "give the 40-hex commit" in moving.err


def test_the_hub_s_own_parquet_of_a_repo_with_a_script_is_read_config_by_config(server):
    """frgfm/imagenette at refs/convert/parquet: CONFIG/SPLIT/0000.parquet and no description of them."""
    done = server.python(
        """
from huggingface_hub import HfApi
from rd3_utils.data import embedded, images, tables
api = HfApi()
api.create_repo("bench/converted", repo_type="dataset")
for ipc, config in ((1, "160px"), (10, "full_size")):
    file = embedded.EMBEDDED / f"digits-dm-ipc{ipc}" / "train-00000-of-00001.parquet"
    path = f"{config}/train/0000.parquet"
    api.upload_file(repo_id="bench/converted", repo_type="dataset", path_or_fileobj=str(file), path_in_repo=path)
commit = api.dataset_info("bench/converted").sha
for config in ("160px", "full_size"):
    print(len(tables.on_hub("bench/converted", commit, config, "train", "refs/convert/parquet")))
"""
    )
    assert done.code == 0 and done.out.split() == ["10", "100"], done.err


def test_asking_for_a_split_fetches_only_its_files(server, tmp_path):
    """500 test images of ImageNet-10 must not cost the 138 GB of ImageNet-1K's train split; also offline, once cached."""
    done = server.python(
        """
import datasets
from rd3_utils.data import embedded, images, tables
sizes = {"train": 10, "validation": 1}
folders = {split: embedded.EMBEDDED / f"digits-dm-ipc{ipc}" for split, ipc in sizes.items()}
sets = {split: datasets.Dataset.from_parquet(str(next(folder.glob("*.parquet")))) for split, folder in folders.items()}
datasets.DatasetDict(sets).push_to_hub("bench/two")
"""
    )
    assert done.code == 0, done.err
    code = """
import os
from pathlib import Path
from huggingface_hub import HfApi
from rd3_utils.data import tables
commit = os.environ.get("COMMIT") or HfApi().dataset_info("bench/two").sha
table = tables.on_hub("bench/two", commit, None, "validation", None)
fetched = {path.name for path in Path(os.environ["HF_HOME"]).rglob("*.parquet")}
print(commit, len(table), table.features["label"].names[3], *sorted(fetched))
"""
    first = server.python(code, HF_HOME=str(tmp_path / "home"))
    assert first.code == 0, first.err
    commit, *found = first.out.split()
    assert found == ["10", "3", "validation-00000-of-00001.parquet"]
    again = server.python(code, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", COMMIT=commit)
    assert again.out == first.out, again.err


def test_a_set_with_whole_numbers_for_classes_and_no_names_is_read_in_the_benchmarks_order(server, published, tmp_path):
    """As he-yang/2025-rethinkdc-imagenet-*: image and class_id int32."""
    done = server.python(
        """
import datasets
from rd3_utils.data import embedded, images, tables
dm = datasets.Dataset.from_parquet(str(embedded.EMBEDDED / "digits-dm-ipc1" / "train-00000-of-00001.parquet"))
numbers = dm.add_column("class_id", dm["label"][:]).remove_columns("label")
numbers.cast_column("class_id", datasets.Value("int32")).push_to_hub("bench/numbers")
"""
    )
    assert done.code == 0, done.err
    done = script(server, tmp_path, "train_student", "--distilled", "bench/numbers", "--protocol", "hard-label-v1", "--set",
                  "training.epochs=1")  # fmt: skip
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("results/**/seed0.json")
    about = json.loads((embedded.EMBEDDED / "digits-dm-ipc1" / "distilled.json").read_text())
    assert json.loads(path.read_text())["images"]["fingerprint"] == about["fingerprint"]


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("bench/nothing", "no dataset repo 'bench/nothing'"),
        ("bench/" + "n" * 100, "cannot be the name of a repo"),
        ("bench/n--n", "cannot be the name of a repo"),
        ("bench/digits-dm@v9", "has no revision 'v9'"),
        ("bench/digits-dm@main:other", "cannot be read as a dataset"),
    ],
)
def test_what_the_hub_has_not_is_said_in_one_line(server, published, tmp_path, source, wanted):
    done = script(server, tmp_path, "train_student", "--distilled", source)
    assert done.code == 2 and wanted in done.err and "Traceback" not in done.err, done.err


def test_a_dead_hub_is_said_in_one_line(server, tmp_path):
    done = script(server, tmp_path, "train_student", "--distilled", "bench/digits-dm", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.code == 2 and "did not answer" in done.err and "Traceback" not in done.err, done.err
    assert "hf_writer" not in done.err + done.out


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a/b", ("a/b", None, None)),
        ("a/b@v1.0", ("a/b", "v1.0", None)),
        ("a/b:cfg", ("a/b", None, "cfg")),
        ("a/b@refs/pr/1:c-d", ("a/b", "refs/pr/1", "c-d")),
    ],
)
def test_a_source_is_read_as_repo_revision_and_config(text, wanted):
    found = sources.repository(text)
    assert (found.repo, found.revision, found.config) == wanted


@pytest.mark.parametrize("text", ["a", "a/b/c", "a/b@", "a b/c", "../a/b"])
def test_what_is_no_repo_is_refused(text):
    with pytest.raises(UserError, match="neither a path that exists"):
        sources.repository(text)
