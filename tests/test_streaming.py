"""Soft labels from the Hub: fetched shard by shard over real HTTP while a student trains, checked, bounded, healed."""

import json
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
from test_hub import RUN, script, server  # noqa: F401  (the fixture)

SLOW = pytest.mark.slow  # twins of what the fast ones show
EPOCHS = "training.epochs=32"  # 16 shards of two epochs
SETS = ["--distilled", "digits-dm-ipc1", "--set", EPOCHS]


@pytest.fixture(scope="module")
def labels(server, tmp_path_factory):  # noqa: F811
    """A store made here and published as bench/labels; its folder name in the repo, its files, and a local Run on it."""
    home = tmp_path_factory.mktemp("first")
    assert script(server, home, "generate_soft_labels", *SETS).code == 0
    done = script(server, home, "train_student", *SETS)
    assert done.code == 0, done.err
    done = server.python(
        f"""
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("bench/labels", repo_type="dataset")
api.upload_folder(repo_id="bench/labels", repo_type="dataset", folder_path={str(home)!r}, allow_patterns="soft_labels/**")
print(api.dataset_info("bench/labels").sha)
"""
    )
    assert done.code == 0, done.err
    (store,) = (home / "soft_labels").glob("*/*")
    run = json.loads(next(home.glob("results/**/seed0.json")).read_text())
    return {"commit": done.out.strip(), "store": store, "path": f"soft_labels/{store.parent.name}/{store.name}", "run": run}


def fault(server, **what):  # noqa: F811
    request = urllib.request.Request(f"{server.url}/_mini/fault", json.dumps(what).encode(), method="POST")
    urllib.request.urlopen(request).read()


def train(server, cwd, *arguments, home="home", **more):  # noqa: F811
    return script(server, cwd, "train_student", *SETS, *arguments, HF_HOME=str(cwd / home), **more)


def run_of(cwd):
    (path,) = cwd.glob("results/**/seed0.json")
    return json.loads(path.read_text())


def same_student(run, other):
    return run["top1"] == other["top1"] and [e["loss"] for e in run["history"]] == [e["loss"] for e in other["history"]]


@pytest.mark.parametrize(
    "source",
    [
        "bench/labels:{path}",
        *(pytest.param(f"bench/labels{rest}", marks=SLOW) for rest in ("", "@{commit}", "@main:soft_labels")),
    ],
)
def test_labels_from_the_hub_make_the_same_student_as_local_ones(server, labels, tmp_path, source):  # noqa: F811
    done = train(server, tmp_path, "--soft-labels", source.format(**labels))
    assert done.code == 0, done.err
    run = run_of(tmp_path)
    assert same_student(run, labels["run"])
    assert run["labels"]["commit"] == labels["commit"] and run["labels"]["source"].startswith("bench/labels:soft_labels/")


def test_a_cached_store_at_a_commit_needs_no_hub(server, labels, tmp_path):  # noqa: F811
    source = f"bench/labels@{labels['commit']}"
    assert train(server, tmp_path, "--soft-labels", source).code == 0
    shutil.rmtree(tmp_path / "results")
    offline = train(server, tmp_path, "--soft-labels", source, HF_HUB_OFFLINE="1")
    assert offline.code == 0 and same_student(run_of(tmp_path), labels["run"]), offline.err
    nothing = train(server, tmp_path, "--soft-labels", source, home="empty", HF_HUB_OFFLINE="1")
    assert nothing.code == 2 and "HF_HUB_OFFLINE is set" in nothing.err and "Traceback" not in nothing.err


def test_a_name_that_was_asked_before_works_offline_and_with_a_dead_hub(server, labels, tmp_path):  # noqa: F811
    """At the commit it pointed to then, which is said."""
    assert train(server, tmp_path, "--soft-labels", "bench/labels@main").code == 0
    for how, why in (({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({}, "HfHubHTTPError: Server error '503")):
        shutil.rmtree(tmp_path / "results")
        fault(server, match="(GET|HEAD) ", status=503, times=0 if how else 99)
        done = train(server, tmp_path, "--soft-labels", "bench/labels@main", **how)
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/_mini/fault", method="DELETE")).read()
        assert done.code == 0 and same_student(run_of(tmp_path), labels["run"]), done.err
        assert f"bench/labels@main is taken as it last was, {labels['commit'][:8]}: {why}" in done.err


WATCH = """
from pathlib import Path
from rd3_utils.data import shards
most = 0
fetch = shards.HubFolder.fetch
def watched(self, entry):
    global most
    path = fetch(self, entry)
    most = max(most, len(list(path.parent.glob("labels-*"))))
    return path
shards.HubFolder.fetch = watched
"""


def test_a_bounded_cache_holds_two_shards_at_most(server, labels, tmp_path):  # noqa: F811
    code = WATCH + RUN.format(
        module="train_student", argv=["x", *SETS, "--soft-labels", "bench/labels", "--label-cache-gb", "0"]
    )
    done = server.python(code + "\nprint('most', most)", tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.code == 0, done.err
    assert same_student(run_of(tmp_path), labels["run"])
    assert re.search(r"most (\d+)", done.out)[1] == "2"
    assert len(list((tmp_path / "home" / "rd3" / "labels").rglob("labels-*.safetensors"))) <= 2
    assert not list((tmp_path / "home" / "hub").rglob("labels-*.safetensors"))


LARGE = """
import dataclasses, json, torch
from pathlib import Path
from huggingface_hub import HfApi
from rd3_utils.data import soft_labels, views
from rd3_utils.protocols import benchmark, protocol
digits = benchmark.load("digits")
recipe = protocol.load("rd3-v1").resolve(digits, "convnet3", 100, 1000, "soft")
plan = soft_labels.StorePlan(
    images={"name": "large", "fingerprint": "0" * 64, "images": 1000}, class_names=(), epochs=64, rows=1000, classes=2000,
    image_size=8, border=0, views=protocol.stated(recipe.views), views_digest=recipe.views_digest, views_seed=0, teachers=(),
    teachers_id="0" * 64, ensemble="mean", label_dtype="fp16", forward_batch=100, device="cpu", shard_mb=8)
where = Path("large")
for name, first, stop in plan.shards:
    drawn = [views.draw(recipe, 0, epoch) for epoch in range(first, stop)]
    soft_labels.write_shard(where / name, plan, first, stop, drawn, torch.randn(stop - first, 1000, 2000))
soft_labels.finish(where, plan, {"recognised": 1.0})
api = HfApi()
api.create_repo("bench/large", repo_type="dataset")
api.upload_folder(repo_id="bench/large", repo_type="dataset", folder_path=str(where), path_in_repo="soft_labels/large/x")
"""
READ = """
import time, torch
from pathlib import Path
from rd3_utils.data import label_store, shards, soft_labels
(files,) = shards.stores_on_hub("bench/large", 0).values()
store = label_store.Shards(files, soft_labels.read_index(files), 64)
shard, most = max(entry["bytes"] for entry in store.index["shards"]), 0
def memory(key):
    return 1024 * int(Path("/proc/self/status").read_text().partition(key + ":")[2].split()[0])
store.read(0)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = memory("VmRSS")
for epoch in range(64):
    store.read(epoch)
    time.sleep(0.02)  # a student trains
    most = max(most, sum(shards.size_of(path) for path in files.folder.rglob("labels-*")))
print(len(store.index["shards"]), most / shard, (memory("VmHWM") - before) / shard)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process's memory is read from /proc")
def test_a_streamed_store_takes_two_shards_of_disk_and_about_as_much_memory(server, tmp_path):  # noqa: F811
    """256 MB of labels in 32 shards of 8 MB, read epoch by epoch."""
    assert server.python(LARGE, tmp_path).code == 0
    done = server.python(READ, tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.code == 0, done.err
    count, disk, memory = map(float, done.out.split())
    assert count == 32 and disk <= 2.01 and memory < 12, done.out  # one epoch as float32 is a shard by itself


ROBBED = """
from rd3_utils.data import shards
path, gone = shards.HubFolder.path, 0
def robbed(self, entry):
    global gone
    found = path(self, entry)
    if gone < 2:
        gone += 1
        found.unlink()
    return found
shards.HubFolder.path = robbed
"""


def test_a_shard_that_another_command_drops_is_fetched_again(server, labels, tmp_path):  # noqa: F811
    argv = ["x", *SETS, "--soft-labels", "bench/labels", "--label-cache-gb", "0"]
    code = ROBBED + RUN.format(module="train_student", argv=argv)
    done = server.python(code + "\nprint('gone', gone)", tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.code == 0 and "gone 2" in done.out, done.err
    assert same_student(run_of(tmp_path), labels["run"])


@pytest.mark.parametrize(
    "what",
    [
        {"match": "GET /blob/", "truncate": 1000, "times": 2},
        {"match": "GET /blob/", "corrupt": True, "times": 2},
        pytest.param({"match": "GET /datasets/bench/labels/resolve/.*/index.json", "corrupt": True, "times": 1}, marks=SLOW),
        pytest.param({"match": "(GET|HEAD) /datasets/bench/labels/.*labels-00003", "status": 503, "times": 2}, marks=SLOW),
        pytest.param({"match": "GET /blob/", "stall": 12, "times": 1}, marks=SLOW),
    ],
    ids=["cut", "wrong bytes", "wrong index", "503", "stalled"],
)
def test_a_fault_on_the_way_heals(server, labels, tmp_path, what):  # noqa: F811
    fault(server, **what)
    done = train(server, tmp_path, "--soft-labels", "bench/labels")
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/_mini/fault", method="DELETE")).read()
    assert done.code == 0, done.err
    assert same_student(run_of(tmp_path), labels["run"])


def test_a_shard_that_is_always_wrong_stops_in_one_line(server, labels, tmp_path):  # noqa: F811
    done = server.python(
        f"""
from huggingface_hub import HfApi
api = HfApi()
api.create_branch("bench/labels", repo_type="dataset", branch="broken")
path = "{labels["path"]}/labels-00004-of-00016.safetensors"
api.upload_file(repo_id="bench/labels", repo_type="dataset", revision="broken", path_or_fileobj=b"x" * 500, path_in_repo=path)
"""
    )
    assert done.code == 0, done.err
    done = train(server, tmp_path, "--soft-labels", "bench/labels@broken")
    assert done.code == 2 and "labels-00004-of-00016.safetensors of bench/labels@" in done.err
    assert "came 3 times with SHA-256" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["--soft-labels", "bench/nothing"], "no dataset repo 'bench/nothing'"),
        (["--soft-labels", "bench/labels:elsewhere"], "holds no soft labels; bench/labels has some in soft_labels/"),
        (["--soft-labels", "bench/labels", "--views-seed", "5"], "are for views seed 0, this run has 5"),
        pytest.param(
            ["--soft-labels", "bench/labels", "--arms", "distilled-soft,random-soft"],
            "Add --teacher default to make them here",
            marks=SLOW,
        ),
    ],
)
def test_what_the_hub_has_not_is_said_before_training(server, labels, tmp_path, arguments, wanted):  # noqa: F811
    done = train(server, tmp_path, *arguments)
    assert done.code == 2 and wanted in done.err and "Traceback" not in done.err, done.err
    assert not list(tmp_path.glob("results/**/seed*.json"))


def test_random_arms_are_labelled_here_where_the_hub_has_no_labels(server, labels, tmp_path):  # noqa: F811
    what = "--arms", "distilled-soft,random-soft", "--draws", "1", "--teacher", "default"
    done = train(server, tmp_path, "--soft-labels", "bench/labels", *what)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("results/**/seed0.json"))) == 2 and len(list(tmp_path.glob("soft_labels/*"))) == 1


def test_one_machine_fetches_a_shard_once(server, labels, tmp_path, launched):  # noqa: F811
    """Two processes, a fresh cache: the storage origin is asked for every shard exactly once."""
    environment = {**server.settings, "HF_HOME": str(tmp_path / "home"), "ACCELERATE_USE_CPU": "true"}
    before = server.gets()
    done = launched("cpu_2_processes.yaml", "train_student.py", *SETS, "--soft-labels", "bench/labels", environment=environment)
    assert done.code == 0, done.err
    shards = len(json.loads((labels["store"] / "index.json").read_text())["shards"])
    assert server.gets() - before == shards
    assert run_of(tmp_path)["environment"]["processes"] == 2
