"""Whatever the Hub does wrong, over real HTTP: every kind of call fails once or for ever, in and out; it heals or says so."""

import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
import warm
from conftest import PROJECT
from test_hub import server  # noqa: F401  (the fixture)
from test_publishing import files_of, hub  # noqa: F401  (the fixture)

QUICK = """
import time
if not hasattr(time, 'really'):
    time.really = time.sleep
    time.sleep = lambda seconds: time.really(min(seconds, 0.05))
"""
FIRST = "pushing.push(pushing.Target({repo!r}, 'model'), lambda commit, there: {{'old.md': b'old'}}, 'first')"
PUSH = """
mine = pushing.Target({repo!r}, "model", create_pr={create_pr}, tag={tag!r})
card = b"---\\ntags: [rd3]\\n---\\n# " + {repo!r}.encode()
def build(commit, there):
    if "old.md" in there:
        pushing.text(mine, commit, "old.md")
    return {{"README.md": card, "model.safetensors": {repo!r}.encode() * 5000, "old.md": None}}
pushing.may_push(mine, True)
print(*pushing.push(mine, build, "a push"))
"""
KINDS_OUT = {  # every kind of call of a push: method and path
    "who this is": "GET /api/whoami-v2",
    "what there is": "GET /api/models/bench/[^/]*$",
    "where a tag is": "GET /api/models/bench/[^/]*/revision/",
    "whether one may write": "GET /api/models/bench/[^/]*/auth-check",
    "making the repo": "POST /api/repos/create",
    "its files": "GET /api/models/bench/[^/]*/tree/",
    "its refs": "GET /api/models/bench/[^/]*/refs",
    "reading a file": "(HEAD|GET) /bench/[^/]*/resolve/",
    "the check of a card": "POST /api/validate-yaml",
    "preupload": "POST /api/models/bench/[^/]*/preupload/",
    "LFS batch": "POST /bench/.*/info/lfs/objects/batch",
    "LFS upload": "PUT /upload/",
    "LFS verify": "POST /bench/.*/info/lfs/verify",
    "commit": "POST /api/models/bench/[^/]*/commit/",
    "tag": "POST /api/models/bench/[^/]*/tag/",
}
PULL = """
import shutil
from huggingface_hub import HfFileSystem, _tree_cache, constants
from rd3_utils.data import images, label_store, shards, soft_labels
from rd3_utils.learning import teachers
from rd3_utils.protocols import benchmark
shutil.rmtree(constants.HF_HOME, ignore_errors=True)
HfFileSystem.clear_instance_cache()  # listings are also kept in memory
_tree_cache._IN_MEMORY_TREE_CACHE.clear()
digits = benchmark.load("digits")
found = images.read("bench/pull-images@v1", digits).fingerprint
print(found, teachers.load("hf-hub:bench/pull-teacher@v1", digits).sha256)
(files,) = shards.stores_on_hub("bench/pull-labels@v1", 0).values()
store = label_store.Shards(files, soft_labels.read_index(files), 16)
print(sum(float(store.read(epoch)["logits"].double().sum()) for epoch in range(16)))
"""
KINDS_IN = {
    "a commit": "GET /api/(datasets|models)/bench/[^/]*/revision/v1",
    "files of images": "GET /api/datasets/bench/pull-images/tree/",
    "files of labels": "GET /api/datasets/bench/pull-labels/tree/",
    "the head of a file": "HEAD /.*/resolve/",
    "a small file": "GET /.*/resolve/",
    "a large file": "(HEAD|GET) /blob/",
}


@pytest.fixture(autouse=True)
def healed(hub):  # noqa: F811
    """Waits of the Hub's clients are short; no fault outlives its test."""
    hub.python(QUICK)
    yield
    hub.heal()


@pytest.fixture(scope="module")
def pulled(hub, tmp_path_factory):  # noqa: F811
    """bench/pull-images, -teacher and -labels, each at tag v1; what PULL prints without a fault."""
    home = tmp_path_factory.mktemp("made")
    done = hub.script("generate_soft_labels", "--distilled", "digits-dm-ipc1", "--set", "training.epochs=16", "--push-to",
                      "bench/pull-labels", "--tag", "v1", cwd=home)  # fmt: skip
    assert done.code == 0, done.err
    assert hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/pull-images", "--tag", "v1", cwd=home).code == 0
    done = hub.python(
        """
from rd3_utils.data import embedded, images
folder = embedded.EMBEDDED / "digits-teacher-convnet3"
files = {name: folder / name for name in ("config.json", "model.safetensors")}
pushing.push(pushing.Target("bench/pull-teacher", "model", tag="v1"), lambda commit, there: files, "teacher")
""",
        cwd=home,
    )
    assert done.code == 0, done.err
    done = hub.python(PULL)
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def requests(server):  # noqa: F811
    """requests() -> all that the Hub was asked so far, as "METHOD /path"."""
    log = server.log
    return lambda: [f"{line['m']} {line['p'].partition('?')[0]}" for line in map(json.loads, log.read_text().splitlines())]


def busy(hub, kind, **more):  # noqa: F811
    """The next two calls of a kind fail: the Hub is not there, then has had enough."""
    hub.fault(match=kind, status=503, times=1, **more)
    hub.fault(match=kind, status=429, times=1, headers={"Retry-After": "0"}, **more)


@pytest.mark.parametrize("name", KINDS_OUT)
def test_a_push_heals_whichever_call_meets_503_and_429(hub, name):  # noqa: F811
    repo = f"bench/out-{list(KINDS_OUT).index(name)}"
    new = name == "making the repo"
    if not new:
        assert hub.python(FIRST.format(repo=repo)).code == 0
    before = 0 if new else hub.commits(repo)
    pr = name == "its refs"
    busy(hub, KINDS_OUT[name])
    done = hub.python(PUSH.format(repo=repo, create_pr=pr, tag=None if pr else "v1"))
    assert done.code == 0 and done.out.split()[2] == "True", done.err
    assert left(hub) == 0, "the call was not made"
    assert hub.commits(repo) == before + (not pr)
    refs = hub.ask(f"models/{repo}/refs?include_prs=1")
    assert len(refs["pullRequests"]) == pr
    if not pr:
        assert [ref["targetCommit"] for ref in refs["tags"]] == [hub.ask(f"models/{repo}")["sha"]]
        assert files_of(hub, repo) == {".gitattributes", "README.md", "model.safetensors"}


@pytest.mark.parametrize("name", KINDS_IN)
def test_a_pull_heals_whichever_call_meets_503_and_429(hub, pulled, name):  # noqa: F811
    busy(hub, KINDS_IN[name])
    done = hub.python(PULL)
    assert done.code == 0 and done.out == pulled, done.err
    assert left(hub) == 0, "the call was not made"


def left(hub):  # noqa: F811
    """Faults that nothing met."""
    return sum(fault["times"] for fault in hub.faults())


def test_there_is_no_other_kind_of_call(hub, pulled, requests):  # noqa: F811
    """What a push and a pull ask for is all in the tables above."""
    before = len(requests())
    assert hub.python(PUSH.format(repo="bench/out-all", create_pr=False, tag="v1")).code == 0
    assert hub.python(FIRST.format(repo="bench/out-pr")).code == 0
    assert hub.python(PUSH.format(repo="bench/out-pr", create_pr=True, tag=None)).code == 0
    assert hub.python(PULL).code == 0
    kinds = [re.compile(kind) for kind in (*KINDS_OUT.values(), *KINDS_IN.values())]
    asked = [call for call in requests()[before:] if "/_mini/" not in call and "/commits/" not in call]
    assert len(asked) > 50 and [call for call in asked if not any(kind.match(call) for kind in kinds)] == []


def test_weights_that_come_damaged_are_fetched_again_and_then_refused(hub, pulled):  # noqa: F811
    """A teacher with one wrong byte would label, and its accuracy might pass."""
    hub.fault(match="GET /blob/", corrupt=True, times=1)
    load = f"{PULL.partition('found =')[0]}print(teachers.load('hf-hub:bench/pull-teacher@v1', digits).sha256)"
    done = hub.python(load)
    assert done.code == 0 and done.out.strip() == pulled.split()[1], done.err
    hub.fault(match="GET /blob/", corrupt=True, times=9)
    done = hub.python(load)
    assert "UserError: model.safetensors of bench/pull-teacher@" in done.err and "came 3 times with other bytes" in done.err


CLOSED = """
import shutil
from huggingface_hub import HfApi, constants
for kind, name in (("dataset", "{how}-images"), ("dataset", "{how}-labels"), ("model", "{how}-teacher")):
    from_ = name.replace("{how}", "pull")
    folder = HfApi().snapshot_download("bench/" + from_, repo_type=kind)
    HfApi().create_repo("bench/" + name, repo_type=kind, private="{how}" == "private")
    HfApi().upload_folder(repo_id="bench/" + name, repo_type=kind, folder_path=folder)
    if "{how}" == "gated":
        HfApi().update_repo_settings("bench/" + name, gated="manual", repo_type=kind)
shutil.rmtree(constants.HF_HOME)
"""


@pytest.fixture(scope="module")
def closed(hub, pulled):  # noqa: F811
    """The sets, labels and teacher of `pulled`, gated and private."""
    for how in ("gated", "private"):
        done = hub.python(CLOSED.format(how=how))
        assert done.code == 0, done.err


@pytest.mark.parametrize("how, wanted", [("gated", "is gated: accept its terms"), ("private", "or it is private and this")])
@pytest.mark.parametrize("token", [None, "hf_carol"])
def test_what_is_closed_opens_with_the_right_token_only(hub, closed, tmp_path, how, wanted, token):  # noqa: F811
    for option, source in (("--distilled", f"bench/{how}-images"), ("--soft-labels", f"bench/{how}-labels"),
                           ("--teacher", f"hf-hub:bench/{how}-teacher")):  # fmt: skip
        what = [option, source, "--set", "training.epochs=16"]
        done = hub.script("train_student", *what, cwd=tmp_path, token=token)
        assert done.code == 2 and wanted in done.err and "Traceback" not in done.err and done.err.count("\n") == 1, done.err
        assert source.removeprefix("hf-hub:") in done.err and not list(tmp_path.glob("results/**/*.json"))
    if token is None:
        return
    what = ["--distilled", f"bench/{how}-images", "--soft-labels", f"bench/{how}-labels", "--set", "training.epochs=16"]
    done = hub.script("train_student", *what, cwd=tmp_path)
    assert done.code == 0, done.err
    labels = "--teacher", f"hf-hub:bench/{how}-teacher", "--set", "training.epochs=1", "--out", "other"
    assert hub.script("train_student", *labels, cwd=tmp_path).code == 0


PICKLED = """
import torch
from pathlib import Path
from huggingface_hub import HfApi
torch.save({"x": torch.zeros(1)}, "pytorch_model.bin")
Path("config.json").write_text('{"architecture": "test_vit"}')
HfApi().create_repo("timm/test_vit.r160_in1k")
for name in ("config.json", "pytorch_model.bin"):
    HfApi().upload_file(repo_id="timm/test_vit.r160_in1k", path_or_fileobj=name, path_in_repo=name)
"""
WHOLE = """
import timm
from pathlib import Path
network = timm.create_model("test_vit")
timm.models.save_for_hf(network, "there", safe_serialization=True)
files = {name: Path("there") / name for name in ("config.json", "model.safetensors")}
pushing.push(pushing.Target("timm/test_vit.r160_in1k", "model"), lambda commit, there: files, "weights")
from rd3_utils.learning import teachers
print(teachers.weights_sha256(network))
"""
NAMED = """
from pathlib import Path
from huggingface_hub import HfApi, constants
from rd3_utils.data import sources
from rd3_utils.learning import teachers
try:
    network, commit = teachers.from_timm(sources.parse_network("test_vit"), None)
    print(teachers.weights_sha256(network), commit == HfApi().model_info("timm/test_vit.r160_in1k").sha)
finally:
    assert not list(Path(constants.HF_HOME).rglob("*.bin"))
"""


def test_a_network_of_timm_is_pinned_to_a_commit_and_never_read_from_a_pickle(hub, tmp_path):  # noqa: F811
    assert hub.python(PICKLED, cwd=tmp_path, token="hf_timm").code == 0
    done = hub.python(NAMED, cwd=tmp_path)
    assert "UserError: timm/test_vit.r160_in1k@" in done.err and "has no model.safetensors" in done.err, done.err
    made = hub.python(WHOLE, cwd=tmp_path, token="hf_timm")
    assert made.code == 0, made.err
    done = hub.python(NAMED, cwd=tmp_path)
    assert done.code == 0 and done.out.split() == [made.out.strip(), "True"], done.err


SILENT = """
from huggingface_hub import HfApi
from rd3_utils import hub, pushing
from rd3_utils.data import images, shards
from rd3_utils.errors import UserError
from rd3_utils.learning import teachers
from rd3_utils.protocols import benchmark
hub.ANSWER, hub.SILENCE, hub.WAITS = 1, 1, (0.05, 0.1, 0.2, 0.4)
digits = benchmark.load("digits")
tries = {
    "images": lambda: images.read("bench/any", digits),
    "images at a commit": lambda: images.read("bench/any@" + "1" * 40, digits),
    "labels": lambda: shards.stores_on_hub("bench/any"),
    "labels at a commit": lambda: shards.stores_on_hub("bench/any@" + "1" * 40),
    "teacher at a commit": lambda: teachers.load("hf-hub:bench/any@" + "1" * 40, digits),
    "push": lambda: pushing.push(pushing.Target("bench/any", "model"), lambda commit, there: {"a": b"a"}, "x"),
}
for name, ask in tries.items():
    try:
        ask()
    except UserError as error:
        print(name, "did not answer" in str(error) or str(error), sep="|")
"""
CALLS = 40  # of six kinds together; 20 as it is
LEAST = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}


@pytest.mark.parametrize("how", ["takes calls and never answers", "is not there"])
def test_a_dead_hub_stops_every_kind_of_pull_and_push_after_few_calls(server, tmp_path, how):  # noqa: F811
    listener, taken = socket.create_server(("127.0.0.1", 0)), []
    port = listener.getsockname()[1]
    if how == "is not there":
        listener.close()
    else:
        threading.Thread(target=lambda: [taken.append(listener.accept()) for _ in range(1000)], daemon=True).start()
    done = server.python(SILENT, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HOME=str(tmp_path / "home"), **LEAST)
    listener.close()
    rows = [line.split("|") for line in done.out.splitlines()]
    assert len(rows) == 6 and done.code == 0, done.out + done.err
    assert all(said == "True" for _, said in rows), done.out
    assert len(taken) <= CALLS, len(taken)


PARTLY = """
import os
from rd3_utils import hub
from rd3_utils.data import images, shards
from rd3_utils.protocols import benchmark
from huggingface_hub import HfApi
commit = os.environ.get("COMMIT") or HfApi().dataset_info("bench/labels-and-images").sha
print(commit, images.read(f"bench/labels-and-images@{commit}", benchmark.load("digits")).fingerprint[:8], flush=True)
if "COMMIT" in os.environ:
    shards.stores_on_hub(f"bench/labels-and-images@{commit}")
"""


def test_labels_that_are_not_cached_are_not_taken_for_missing_where_the_hub_is_away(server, hub, pulled, tmp_path):  # noqa: F811
    """Of the same commit, images are cached: the Hub's client then gives a folder without labels, as if that were all."""
    home = tmp_path / "home"
    done = hub.script("generate_soft_labels", "--distilled", "digits-dm-ipc1", "--set", "training.epochs=16", "--push-to",
                      "bench/labels-and-images", "--with-images", cwd=tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    first = server.python(PARTLY, tmp_path, HF_HOME=str(home))
    assert first.code == 0, first.err
    done = server.python(PARTLY, tmp_path, HF_HOME=str(home), HF_HUB_OFFLINE="1", COMMIT=first.out.split()[0])
    assert done.out == first.out and "UserError: HF_HUB_OFFLINE is set and what is needed of" in done.err, done.err


def test_a_cache_that_cannot_be_written_is_not_called_a_silent_hub(server, pulled, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    code = (
        "from rd3_utils.data import sources\nfrom rd3_utils.learning import teachers\n"
        "teachers.from_timm(sources.parse_network('hf-hub:bench/pull-teacher@v1'), None)"
    )
    done = server.python(code, tmp_path, HF_HUB_CACHE=str(tmp_path / "file" / "cache"))
    assert "UserError: files of bench/pull-teacher cannot be read or kept here: NotADirectoryError" in done.err, done.err


OUTSIDE = """
import json, re
from huggingface_hub import HfApi
from rd3_utils import hub, pushing
from rd3_utils.data import images, label_store, shards, soft_labels
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark, protocol
digits = benchmark.load("digits")
found = images.read("digits-dm-ipc1", digits)
recipe = protocol.load("rd3-v1").override(["training.epochs=16"]).resolve(digits, "convnet3", 1, 10, "soft")
(files,) = shards.stores_on_hub("bench/pull-labels").values()
index = json.loads(files.index().read_text())
for name in ("..", "", "../../secret", "labels-00000-of-00016.safetensors/..", "/etc/passwd"):
    index["shards"][3]["file"] = name
    path = files.where + "/index.json"
    pushing.push(pushing.Target("bench/outside", "dataset"), lambda commit, there: {path: json.dumps(index).encode()}, "x")
    (other,) = shards.stores_on_hub("bench/outside").values()
    try:
        label_store.load_store(other, found, recipe, 0)
    except UserError as error:
        print("is damaged (a shard named" in str(error))
"""


def test_an_index_that_names_a_file_elsewhere_is_refused(hub, pulled):  # noqa: F811
    done = hub.python(OUTSIDE)
    assert done.code == 0 and done.out.split() == ["True"] * 5, done.err


DROPPED = """
from rd3_utils.data import label_store, shards, soft_labels
(files,) = shards.stores_on_hub("bench/pull-labels", 0).values()
store = label_store.Shards(files, soft_labels.read_index(files), 16)
honest, times = shards.file_sha256, [2]
def robbed(path):
    if times[0]:
        times[0] -= 1
        path.unlink()  # another command's drop comes between the download and its check
    return honest(path)
shards.file_sha256 = robbed
try:
    print(float(store.read(0)["logits"].double().sum()) != 0, times)
finally:
    shards.file_sha256 = honest
"""


def test_a_shard_that_another_command_drops_before_it_is_checked_is_fetched_again(hub, pulled):  # noqa: F811
    done = hub.python(DROPPED)
    assert done.code == 0 and done.out.strip() == "True [0]", done.err


XET = """
import hashlib, json, os
from pathlib import Path
from huggingface_hub import HfApi, constants
from rd3_utils import hub, pushing
assert not constants.HF_HUB_DISABLE_XET
for name in ("labels-a.safetensors", "labels-b.safetensors"):
    Path(name).write_bytes(os.urandom(3_000_000))
target = pushing.Target("bench/xet", "dataset", tag="v1")
files = {f"soft_labels/x/{name}": Path(name) for name in ("labels-a.safetensors", "labels-b.safetensors")}
build = lambda commit, there: {**files, "soft_labels/x/index.json": b"{}"}
print(pushing.push(target, build, "x").new, pushing.push(target, build, "x").new)
commit = hub.commit("bench/xet", "v1")
for path, source in files.items():
    for folder in (None, Path("bounded")):
        assert hub.download("bench/xet", commit, path, folder).read_bytes() == source.read_bytes()
entries = HfApi().list_repo_tree("bench/xet", recursive=True, repo_type="dataset")
print(sum(bool(getattr(entry, "xet_hash", None)) for entry in entries))
def size(folder):
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink())
for path in Path("bounded").rglob("labels-*"):
    path.unlink()
print(size("bounded") < 1e5)
"""


def test_with_xet_files_go_out_and_come_in_the_same_and_a_bounded_folder_keeps_nothing(tmp_path):
    """A Hub with Xet storage: hf_xet's own client writes and reads chunks; nothing goes by LFS."""
    log = tmp_path / "log"
    command = [
        sys.executable,
        str(PROJECT / "tests/hub/minihub.py"),
        "--root",
        str(tmp_path / "hub"),
        "--port",
        "0",
        "--log",
        str(log),
    ]
    environment = {**os.environ, "MINIHUB_XET": f"local://{tmp_path / 'cas'}", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = next(line for line in process.stdout if "http://" in line).split()[-1]
        environment |= {"HF_ENDPOINT": url, "HF_TOKEN": "hf_writer", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "0",
                        "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}  # fmt: skip
        (tmp_path / "work").mkdir()
        done = subprocess.run([warm.python(), "-c", XET], cwd=tmp_path / "work", env=environment, text=True,
                              capture_output=True, timeout=200)  # fmt: skip
    finally:
        process.terminate()
        process.wait()
    assert done.returncode == 0 and done.stdout.split() == ["True", "False", "2", "True"], done.stdout + done.stderr
    assert "/upload/" not in log.read_text() and "/xet-write-token/" in log.read_text()
