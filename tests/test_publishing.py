"""Out to the Hub over real HTTP: images, labels and students are pushed, read back on another machine, and score the same."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import warm
from conftest import CONFIGS, PROJECT
from test_hub import script, server  # noqa: F401  (the fixture)

from rd3_utils.data import embedded

EPOCHS = "--set", "training.epochs=160"  # 16 shards of ten epochs
WORKER = """
import contextlib, io, json, os, sys, traceback
import generate_soft_labels, train_student
from rd3_utils import __main__ as rd3_utils, hub, launch, pushing
hub.WAITS, hub.SILENCE = (0.05, 0.1, 0.2, 0.4), 2

def script(name, *arguments):
    module = {"generate_soft_labels": generate_soft_labels, "train_student": train_student, "rd3_utils": rd3_utils}[name]
    sys.argv = ["rd3_utils/__main__.py" if name == "rd3_utils" else f"{name}.py", *arguments]
    launch.run(module.main, module.parse())

for line in sys.stdin:
    job = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": job["token"]} if job["token"] else {})
    os.chdir(job["cwd"])
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(job["code"], {"script": script, "hub": hub, "pushing": pushing})
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)
"""


@pytest.fixture(scope="module")
def hub(server, tmp_path_factory):  # noqa: F811
    """The Hub and a process that talks to it: .python(code), .script(name, ...), .fault(...), .commits(repo)."""
    home = tmp_path_factory.mktemp("work")
    process = subprocess.Popen([warm.python(), "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, **server.settings, "OMP_NUM_THREADS": "1"})  # fmt: skip

    def python(code, cwd=home, token="hf_writer"):
        process.stdin.write(json.dumps({"code": code, "cwd": str(cwd), "token": token}) + "\n")
        process.stdin.flush()
        return SimpleNamespace(**json.loads(process.stdout.readline()))

    def run(name, *arguments, **where):
        return python(f"script({name!r}, *{[str(a) for a in arguments]!r})", **where)

    def fault(**what):
        request = urllib.request.Request(f"{server.url}/_mini/fault", json.dumps(what).encode(), method="POST")
        urllib.request.urlopen(request).read()

    def heal():
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/_mini/fault", method="DELETE")).read()

    def faults():
        return json.loads(urllib.request.urlopen(f"{server.url}/_mini/fault").read())["faults"]

    def ask(path):
        return json.loads(urllib.request.urlopen(f"{server.url}/api/{path}").read())

    def commits(repo, kind="models"):
        return len(ask(f"{kind}/{repo}/commits/main")) - 1  # without the one that made the repo

    yield SimpleNamespace(python=python, script=run, fault=fault, heal=heal, faults=faults, ask=ask, commits=commits, home=home)
    process.stdin.close()
    process.wait()


@pytest.fixture(autouse=True)
def healed(hub):
    yield
    hub.heal()


@pytest.fixture(scope="module")
def published(hub):
    """digits-dm-ipc1 on the Hub as bench/digits, tag v1, and its labels as bench/labels."""
    done = hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/digits", "--tag", "v1")
    assert done.code == 0, done.err
    what = "--distilled", "bench/digits@v1", *EPOCHS
    done = hub.script("generate_soft_labels", *what, "--push-to", "bench/labels", "--tag", "v1", "--with-images")
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def student(server, hub, published, tmp_path_factory):  # noqa: F811
    """A student trained by two processes on labels from the Hub, in a fresh cache, and pushed as bench/student."""
    folder = tmp_path_factory.mktemp("second")
    what = ["--distilled", "bench/digits@v1", *EPOCHS, "--soft-labels", "bench/labels@v1", "--seeds", "1,0"]
    command = [warm.python(), "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu_2_processes.yaml")]
    command += [str(PROJECT / "train_student.py"), *what, "--push-to", "bench/student", "--tag", "v1"]
    environment = {**os.environ, **server.settings, "HF_HOME": str(folder / "home"), "ACCELERATE_USE_CPU": "true",
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr
    runs = {json.loads(p.read_text())["seed"]: json.loads(p.read_text()) for p in folder.glob("results/**/seed?.json")}
    return SimpleNamespace(folder=folder, what=what, runs=runs, out=done.stdout)


def files_of(hub, repo, kind="models"):
    return {entry["rfilename"] for entry in hub.ask(f"{kind}/{repo}")["siblings"]}


def test_published_images_are_the_same_images_with_a_card(hub, published):
    assert hub.commits("bench/digits", "datasets") == 1
    assert files_of(hub, "bench/digits", "datasets") == {
        ".gitattributes", "README.md", "digits-dm-ipc1/card.md", "digits-dm-ipc1/distilled.json", "digits-dm-ipc1/images.png",
        "digits-dm-ipc1/train-00000-of-00001.parquet",
    }  # fmt: skip
    done = hub.python(
        """
from huggingface_hub import DatasetCard
from rd3_utils.data import embedded, images
from rd3_utils.protocols import benchmark
digits = benchmark.load("digits")
print(images.read("bench/digits@v1:digits-dm-ipc1", digits).fingerprint, images.read("bench/digits", digits).fingerprint)
card = DatasetCard.load("bench/digits")
print(card.data.license, card.data.tags, card.text)
"""
    )
    assert done.code == 0, done.err
    about = json.loads((embedded.EMBEDDED / "digits-dm-ipc1" / "distilled.json").read_text())
    assert done.out.splitlines()[0].split() == [about["fingerprint"]] * 2
    for part in ("None [", "benchmark-digits", "ipc-1", "| method | dm |", "sklearn:digits", "41.0 s on cpu", "1000",
                 about["fingerprint"], "(digits-dm-ipc1/images.png)", "--distilled bench/digits:digits-dm-ipc1"):  # fmt: skip
        assert part in done.out, part


def test_a_published_set_whose_record_speaks_of_other_images_is_refused(hub, published):
    assert hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/stale").code == 0
    done = hub.python(
        """
from huggingface_hub import HfApi
from rd3_utils.data import images
from rd3_utils.protocols import benchmark
about = b'{"fingerprint": "' + b"0" * 64 + b'"}'
where = dict(path_in_repo="digits-dm-ipc1/distilled.json", repo_id="bench/stale", repo_type="dataset")
HfApi().upload_file(path_or_fileobj=about, **where)
images.read("bench/stale:digits-dm-ipc1", benchmark.load("digits"))
"""
    )
    assert (
        "UserError: bench/stale:digits-dm-ipc1 has fingerprint 1502343ee172, its distilled.json says 000000000000" in done.err
    )


def test_labels_are_on_the_hub_shard_by_shard_and_the_index_last(hub, published):
    titles = [entry["title"] for entry in hub.ask("datasets/bench/labels/commits/main")][::-1]
    assert titles[0] == "initial commit" and titles[-1].startswith("index of the soft labels")
    assert 1 <= len(titles) - 2 <= 16 and all(title.startswith("labels labels-000") for title in titles[1:-1])
    files = files_of(hub, "bench/labels", "datasets")
    assert sum(name.endswith(".safetensors") for name in files) == 16
    (index,) = [name for name in files if name.endswith("index.json")]
    assert re.fullmatch(r"soft_labels/digits@[0-9a-f]{8}/[0-9a-f]{8}-[0-9a-f]{12}-s0/index.json", index)
    card = hub.python(
        "from huggingface_hub import DatasetCard; c = DatasetCard.load('bench/labels'); print(c.data.configs, c.text)"
    )
    (teacher,) = json.loads(next(hub.home.glob("soft_labels/*/*/index.json")).read_text())["teachers"]
    for part in ("'path': 'digits/train-*'", f"{100 * teacher['top1']:.2f}", teacher["sha256"],
                 "--distilled bench/labels:digits", "--soft-labels bench/labels", "epochs=160", "16 files"):  # fmt: skip
        assert part in card.out, (part, card.out)


def test_a_pushed_student_scores_the_same_again(hub, student):
    assert files_of(hub, "bench/student") >= {"README.md", "config.json", "model.safetensors", "report.json"}
    assert hub.commits("bench/student") == 1 and "pushed http" in student.out
    done = hub.python(
        """
import timm, rd3_utils.learning.students
from accelerate import Accelerator
from huggingface_hub import HfApi, ModelCard
from rd3_utils.data import embedded, images
from rd3_utils.learning import evaluation
from rd3_utils.protocols import benchmark
digits = benchmark.load("digits")
network = timm.create_model("hf-hub:bench/student@v1", pretrained=True)
print(evaluation.accuracy(network, images.test_split(digits), digits, Accelerator(cpu=True)).top1)
(result,) = HfApi().model_info("bench/student", expand=["evalResults"]).eval_results
print(result.dataset_id, result.task_id, result.value, result.notes)
card = ModelCard.load("bench/student").data
print(card.base_model, card.license, [r.metric_value for r in card.eval_results])
"""
    )
    assert done.code == 0, done.err
    top1, entry, card = done.out.splitlines()[-3:]
    assert float(top1) == student.runs[1]["top1"] > 0.3  # the first of --seeds 1,0, whichever is better
    mean = (student.runs[0]["top1"] + student.runs[1]["top1"]) / 2
    digest = student.runs[0]["protocol"]["digest"]
    assert entry.startswith(f"digits digits-ipc1-rd3-v1-custom-{digest} {round(100 * mean, 4)} mean top-1 in % of 2 students")
    assert card.startswith("None None [") and float(card[11:-1]) == pytest.approx(mean)


def test_a_pushed_card_says_which_seed_the_weights_are_and_not_how_it_was_pushed(hub, student):
    text = hub.python("from huggingface_hub import ModelCard; print(ModelCard.load('bench/student').text)").out
    assert f"those of seed 1, the first of its command, after the last epoch and whatever its score: top-1 "\
           f"{100 * student.runs[1]['top1']:.2f} %" in text  # fmt: skip
    assert 'timm.create_model("hf-hub:bench/student", pretrained=True)' in text
    assert "--push-to" not in text and "--tag" not in text and "local-dir:convnet3" not in text
    pictures = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert pictures and set(pictures) <= files_of(hub, "bench/student")
    runs = [name for name in files_of(hub, "bench/student") if name.startswith("runs/digits/rd3-v1-")]
    assert len(runs) == 2 and all(re.search(r"/convnet3/distilled-soft/seed[01].json$", name) for name in runs)


def test_the_features_of_a_pushed_student_are_carried_to_a_benchmark_with_its_run(hub, student, tmp_path):
    done = hub.script("rd3_utils", "transfer", "hf-hub:bench/student", "--to", "digits", "--train-per-class", "5", cwd=tmp_path)
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("results/transfer/digits/random-ipc5-seed0-*/convnet3-distilled-soft-*.json")
    network = json.loads(path.read_text())["network"]
    assert (network["source"], network["seed"], network["top1"]) == ("hf-hub:bench/student", 1, student.runs[1]["top1"])
    assert network["commit"] == hub.ask("models/bench/student")["sha"]
    assert "add --arms distilled-soft,random-soft --keep-weights all" in done.out


def test_pushing_again_changes_nothing_and_other_scores_take_the_place_of_old_ones(hub, student):
    again = *student.what, "--push-to", "bench/student"
    done = hub.script("train_student", *again, "--push-only", cwd=student.folder)
    assert done.code == 0 and "nothing to push, all is there" in done.out and hub.commits("bench/student") == 1, done.out
    hub.python(  # the owner states a licence, and there is a file of an older push
        """
from huggingface_hub import HfApi, metadata_update
metadata_update("bench/student", {"license": "mit"})
HfApi().upload_file(repo_id="bench/student", path_or_fileobj=b"- 1", path_in_repo=".eval_results/old.yaml")
"""
    )
    before = hub.commits("bench/student")
    done = hub.script("train_student", *again, "--push-only", cwd=student.folder)
    assert done.code == 0 and hub.commits("bench/student") == before + 1, done.err
    about = hub.ask("models/bench/student")
    assert len(about["model-index"][0]["results"]) == 1 and len(about["evalResults"]) == 1
    assert about["cardData"]["license"] == "mit" and len(about["evalResults"][0]["data"]["notes"]) > 10


def test_labels_pushed_again_or_after_a_crash_are_only_what_is_missing(server, hub, published):  # noqa: F811
    what = "--distilled", "bench/digits@v1", *EPOCHS, "--with-images"
    before = hub.commits("bench/labels", "datasets")
    done = hub.script("generate_soft_labels", *what, "--push-to", "bench/labels")
    assert done.code == 0 and "nothing to push" in done.out and hub.commits("bench/labels", "datasets") == before
    hub.fault(match="POST .*/commit/", status=403, times=9)
    done = hub.script("generate_soft_labels", *what, "--push-to", "bench/later")
    hub.heal()
    assert done.code == 2 and "Traceback" not in done.err and "may not write to bench/later" in done.err
    (last,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    command = last.partition("Push what is missing with: ")[2]
    assert command == shlex.join(["accelerate", "launch", "generate_soft_labels.py", *what, "--push-to", "bench/later"])
    assert files_of(hub, "bench/later", "datasets") == {".gitattributes"}
    uploads = hub.ask("datasets/bench/later/commits/main")
    done = hub.script(*command.replace(".py", "").split()[2:])
    assert done.code == 0 and len(hub.ask("datasets/bench/later/commits/main")) == len(uploads) + 2, done.err


def test_shards_without_an_index_are_no_labels(hub, published, tmp_path):
    done = hub.python(
        """
from huggingface_hub import HfApi
from pathlib import Path
from rd3_utils.publishing import dataset_repo
(where,) = Path("soft_labels").glob("*/*")
target = pushing.Target("bench/half", "dataset", tag="v1")
dataset_repo.push_shards(target, where, sorted(where.glob("labels-*"))[:3])
dataset_repo.push_shards(target, where, sorted(where.glob("labels-*"))[:3])
index = f"{dataset_repo.store_in_repo(where)}/index.json"
HfApi().upload_file(repo_id="bench/half", repo_type="dataset", path_or_fileobj=str(where / "index.json"), path_in_repo=index)
other = where / "labels-00001-of-00016.safetensors"
dataset_repo.push_shards(target, where, [other])
print(index in HfApi().list_repo_files("bench/half", repo_type="dataset"))
whole = other.read_bytes()
other.write_bytes(whole[:-1] + b"x")
dataset_repo.push_shards(target, where, [other])
other.write_bytes(whole)
tags = HfApi().list_repo_refs("bench/half", repo_type="dataset").tags
print(index in HfApi().list_repo_files("bench/half", repo_type="dataset"), tags)
"""
    )
    assert done.code == 0 and done.out.split("\n")[:2] == ["True", "False []"], done.err
    done = hub.script("train_student", "--distilled", "bench/digits@v1", *EPOCHS, "--soft-labels", "bench/half", cwd=tmp_path)
    assert done.code == 2 and "bench/half holds no soft labels" in done.err


OWN = """
target = pushing.Target("bench/own", "dataset")
def theirs(commit, there):
    return {"docs/card.md": b"# of the owner", "card.md": b"# too"}
pushing.push(target, theirs, "own")
"""


def test_a_card_md_of_the_owner_is_no_part_of_the_card(hub):
    assert hub.python(OWN).code == 0
    assert hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/own").code == 0
    card = hub.python(
        "from huggingface_hub import DatasetCard; c = DatasetCard.load('bench/own'); print(c.data.configs, c.text)"
    )
    assert "of the owner" not in card.out and "'docs'" not in card.out and "digits-dm-ipc1/train-*" in card.out, card.out


FAULTS = {
    "503 on the commit": {"match": "POST .*/commit/", "status": 503, "times": 2},
    "429 on the commit": {"match": "POST .*/commit/", "status": 429, "headers": {"Retry-After": "1"}},
    "503 on preupload": {"match": "POST .*/preupload/", "status": 503},
    "429 on preupload": {"match": "POST .*/preupload/", "status": 429},
    "503 on the LFS batch": {"match": "POST .*/info/lfs/objects/batch", "status": 503},
    "503 on the LFS upload": {"match": "PUT /upload/", "status": 503},
    "429 on the LFS upload": {"match": "PUT /upload/", "status": 429},
    "503 on the repo's making": {"match": "POST /api/repos/create", "status": 503},
    "503 on what is there": {"match": "GET /api/models/bench/", "status": 503, "times": 2},
    "503 on the tag": {"match": "POST .*/tag/", "status": 503},
    "connection lost in the middle of an upload": {"match": "PUT /upload/", "drop": 1000},
    "connection lost in the middle of the commit": {"match": "POST .*/commit/", "drop": 10},
    "answer to the commit lost": {"match": "POST .*/commit/", "lose_answer": True},
    "answer to the repo's making lost": {"match": "POST /api/repos/create", "lose_answer": True},
    "answer to the tag lost": {"match": "POST .*/tag/", "lose_answer": True},
    "no answer to who this is": {"match": "GET /api/models/bench/", "stall": 5},
    "no answer on preupload": {"match": "POST .*/preupload/", "stall": 5},
    "no answer to the LFS upload": {"match": "PUT /upload/", "stall": 5},
    "no answer to the commit until it is too late": {"match": "POST .*/commit/", "stall": 5},
}
PUSH = """
target = pushing.Target({repo!r}, "model", create_pr={create_pr}, tag={tag!r})
files = {{"README.md": b"---\\ntags: [rd3]\\n---\\n# x", "model.safetensors": bytes(300_000), "old.txt": None}}
print(*pushing.push(target, lambda commit, there: files, "a push"))
"""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_the_way_out_heals_in_one_commit(hub, name):
    repo = f"bench/fault-{list(FAULTS).index(name)}"
    hub.fault(**FAULTS[name])
    done = hub.python(PUSH.format(repo=repo, create_pr=False, tag="v1"))
    assert done.code == 0, done.err
    assert hub.commits(repo) == 1 and done.out.split()[2] == "True"
    refs = hub.ask(f"models/{repo}/refs")
    assert [ref["targetCommit"] for ref in refs["tags"]] == [hub.ask(f"models/{repo}")["sha"]] == done.out.split()[:1]
    assert files_of(hub, repo) == {".gitattributes", "README.md", "model.safetensors"}


def test_a_fault_that_stays_stops_in_one_line(hub):
    hub.fault(match="POST .*/commit/", status=503, times=99)
    done = hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/stays")
    assert done.code == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err, done.err
    assert "did not answer for bench/stays" in done.err and "503" in done.err and "hf_writer" not in done.err
    assert done.err.strip().endswith("with: python -m rd3_utils publish digits-dm-ipc1 bench/stays")
    assert files_of(hub, "bench/stays", "datasets") == {".gitattributes"}


def test_a_hub_that_takes_calls_and_never_answers_stops_in_one_line(hub):
    hub.fault(match="GET /api/whoami", stall=25, times=5)
    done = hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/silent")
    assert done.code == 2 and done.err.count("\n") == 1 and "ReadTimeout" in done.err, done.err


def test_a_tag_that_is_there_stops_a_push_before_it_commits(hub):
    """It says so, and the command that it prints asks for another tag."""
    assert hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/twice", "--tag", "v1").code == 0
    assert hub.script("rd3_utils", "publish", "digits-dm-ipc1", "bench/twice", "--tag", "v1").code == 0
    done = hub.script("rd3_utils", "publish", "digits-dm-ipc10", "bench/twice", "--tag", "v1")
    assert done.code == 2 and "has a tag 'v1' already" in done.err, done.err
    assert done.err.strip().endswith("publish digits-dm-ipc10 bench/twice --tag ANOTHER")
    assert hub.commits("bench/twice", "datasets") == 1


MOVED = """
from huggingface_hub import CommitOperationAdd, HfApi
from rd3_utils.errors import UserError
target = pushing.Target("bench/moved-{times}", "model")
HfApi().create_repo(target.repo)
asked = 0
def build(commit, there):
    global asked
    asked += 1
    if asked <= {times}:  # somebody else is faster
        HfApi().upload_file(repo_id=target.repo, path_or_fileobj=f"{{asked}}".encode(), path_in_repo="other.txt")
    return {{"mine.txt": b"mine"}}
try:
    print(pushing.push(target, build, "mine").new)
except UserError as error:
    print(error)
"""


def test_a_branch_that_somebody_moves_is_met_once_and_then_said(hub):
    done = hub.python(MOVED.format(times=1))
    assert done.out.strip() == "True" and hub.commits("bench/moved-1") == 2, done.err
    assert {"mine.txt", "other.txt"} <= files_of(hub, "bench/moved-1")
    done = hub.python(MOVED.format(times=2))
    assert "changed twice while this was pushed" in done.out and "mine.txt" not in files_of(hub, "bench/moved-2"), done.err


def test_a_pull_request_is_opened_once_also_where_its_answer_is_lost(hub):
    old = "lambda commit, there: {'a.txt': b'a', 'old.txt': b'o'}"
    hub.python(f"pushing.push(pushing.Target('bench/pr', 'model'), {old}, 'first')")
    hub.fault(match="POST .*/commit/", lose_answer=True)
    first = hub.python(PUSH.format(repo="bench/pr", create_pr=True, tag=None))
    again = hub.python(PUSH.format(repo="bench/pr", create_pr=True, tag=None))
    assert first.code == again.code == 0, first.err + again.err
    assert first.out.split()[1].endswith("/bench/pr/discussions/1") and first.out.split()[:2] == again.out.split()[:2]
    assert (first.out.split()[2], again.out.split()[2]) == ("True", "False")
    assert hub.commits("bench/pr") == 1
    assert len(json.loads(json.dumps(hub.ask("models/bench/pr/refs?include_prs=1")))["pullRequests"]) == 1


@pytest.fixture(scope="module")
def others(hub):
    """Repos of carol's, one of them gated, and of ours: empty, with something else in it, with a tag behind its head."""
    hers = hub.python(
        """
from huggingface_hub import HfApi
api = HfApi()
for name in ("open", "gated"):
    card = b"---\\ntags: [rd3]\\n---\\n"
    pushing.push(pushing.Target(f"carol/{name}", "model"), lambda commit, there: {"README.md": card}, "x")
api.update_repo_settings("carol/gated", gated="manual")
""",
        token="hf_carol",
    )
    assert hers.code == 0, hers.err
    return hub.python(
        """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("bench/public")
api.create_repo("bench/elsewhere")
api.upload_file(repo_id="bench/elsewhere", path_or_fileobj=b"x", path_in_repo="pytorch_model.bin")
card = b"---\\ntags: [rd3]\\n---\\n"
pushing.push(pushing.Target("bench/tagged", "model", tag="v1"), lambda commit, there: {"README.md": card}, "x")
pushing.push(pushing.Target("bench/tagged", "model"), lambda commit, there: {"a": b"b"}, "y")
mine = {"README.md": b"---\\ntags: [rd3]\\n---\\n"}
pushing.push(pushing.Target("bench/at-head", "model", tag="v1"), lambda commit, there: mine, "x")
"""
    )


@pytest.mark.parametrize(
    "arguments, token, wanted",
    [
        (["--push-to", "bench/new"], None, "needs a token: hf auth login"),
        (["--push-to", "bench/new"], "hf_wrong", "does not know this token"),
        (["--push-to", "bench/new"], "hf_reader", "the token of 'bob' may only read"),
        (["--push-to", "carol/new"], "hf_writer", "carol/new belongs to 'carol', this login to alice, bench"),
        (["--push-to", "carol/new", "--create-pr"], "hf_writer", "no model repo 'carol/new' to open a pull request on"),
        (["--push-to", "carol/open"], "hf_writer", "belongs to 'carol'"),
        (["--push-to", "carol/gated", "--create-pr"], "hf_writer", "carol/gated is gated"),
        (["--push-to", "bench/public"], "hf_fine", "this login may not write to bench/public"),
        (["--push-to", "bench/new"], "hf_fine", "this login may not write to bench/new"),
        (["--push-to", "new"], "hf_writer", "wanted OWNER/REPO"),
        (["--push-to", "bench/a--b"], "hf_writer", "cannot be the name of a repo"),
        (["--push-to", "bench/elsewhere"], "hf_writer", "holds something else already (pytorch_model.bin"),
        (["--push-to", "bench/public", "--private"], "hf_writer", "exists and is public"),
        (["--push-to", "bench/tagged", "--tag", "v1"], "hf_writer", "has a tag 'v1' already"),
        (["--push-to", "bench/at-head", "--tag", "v1"], "hf_writer", "has a tag 'v1' already"),
        (["--push-to", "bench/new", "--distilled", "random:ipc=1,seed=0"], "hf_writer", "are random real images"),
        (["--push-to", "bench/new", "--tag", "v1", "--create-pr"], "hf_writer", "a pull request cannot be tagged"),
        (["--push-to", "bench/new", "--student", "convnet2,convnet3"], "hf_writer", "a repo holds one network"),
        (["--push-to", "bench/new", "--arms", "random-hard"], "hf_writer", "students of random images are not pushed"),
        (["--push-to", "bench/new", "--push-only"], "hf_writer", "1 of 1 runs are not there"),
        (["--push-only"], "hf_writer", "--push-only needs --push-to"),
    ],
)
def test_what_may_not_be_pushed_is_said_before_training(hub, others, tmp_path, arguments, token, wanted):
    assert others.code == 0, others.err
    what = "--protocol", "hard-label-v1", "--set", "training.epochs=1"
    done = hub.script("train_student", *what, *arguments, cwd=tmp_path, token=token)
    assert done.code == 2 and wanted in done.err and "Traceback" not in done.err and done.err.count("\n") == 1, done.err
    assert not list(tmp_path.glob("results/**/*")) and "hf_w" not in done.err


def test_a_pull_request_may_go_to_somebody_else(hub, others):
    done = hub.python(PUSH.format(repo="carol/open", create_pr=True, tag=None))
    assert done.code == 0 and done.out.split()[1].endswith("/carol/open/discussions/1"), done.err
    assert hub.commits("carol/open") == 1


CHOICE = """
import sys, train_student
from accelerate import Accelerator
from rd3_utils.cli.options import push_target, read_what
from rd3_utils.publishing import student_repo
from rd3_utils.arms import planned_runs
sys.argv = ["x", "--protocol", "{protocol}", "--arms", "{arms}", "--seeds", "3,1", "--push-to", "bench/new"]
options = train_student.parse()
cells = planned_runs.plan(options, *read_what(options), ["convnet3"])
cell = student_repo.check_push(push_target(options, "model"), cells, options, "fp32", Accelerator(cpu=True))
print(cell.arm, cell.seed)
"""


@pytest.mark.parametrize(
    "protocol, arms, wanted",
    [
        ("rd3-v1", "full-hard,random-soft,distilled-hard,distilled-soft", "distilled-soft 3"),
        ("rd3-v1", "full-hard,distilled-hard", "distilled-hard 3"),
        ("hard-label-v1", "random-hard,full-hard", "full-hard 3"),
    ],
)
def test_the_network_that_is_pushed_is_the_first_seed_of_the_headline_arm(hub, protocol, arms, wanted):
    done = hub.python(CHOICE.format(protocol=protocol, arms=arms))
    assert done.code == 0 and done.out.strip() == wanted, done.err


def test_a_killed_command_leaves_shards_that_the_next_one_completes(server, hub, tmp_path):  # noqa: F811
    what = [str(PROJECT / "generate_soft_labels.py"), *EPOCHS, "--push-to", "bench/killed"]
    environment = {**os.environ, **server.settings, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    hub.fault(match="POST .*/datasets/bench/killed/commit/", stall=2, times=9)
    first = subprocess.Popen([warm.python(), *what], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while first.poll() is None:
        with contextlib.suppress(urllib.error.HTTPError):
            if hub.commits("bench/killed", "datasets") > 0:
                first.kill()
                first.wait()
        time.sleep(0.1)
    hub.heal()
    there = files_of(hub, "bench/killed", "datasets")
    assert any(name.endswith(".safetensors") for name in there) and not any(name.endswith("index.json") for name in there)
    for name in ("labels-00002-of-00016.safetensors", "labels-00003-of-00016.safetensors", "index.json"):
        for path in tmp_path.glob(f"soft_labels/*/*/{name}"):  # each of two processes makes one
            path.unlink()
    command = [warm.python(), "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu_2_processes.yaml")]
    done = subprocess.run([*command, *what], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0 and done.stdout.count("pushed http") == 1, done.stderr
    there = files_of(hub, "bench/killed", "datasets")
    (index,) = [name for name in there if name.endswith("index.json")]
    (local,) = tmp_path.glob("soft_labels/*/*/index.json")
    assert {path.name for path in local.parent.iterdir()} <= {name.rsplit("/", 1)[-1] for name in there}
    assert index == local.relative_to(tmp_path).as_posix()


def test_a_push_that_fails_after_training_loses_nothing_and_its_command_pushes(server, hub, tmp_path):  # noqa: F811
    what = "--protocol", "hard-label-v1", "--set", "training.epochs=2", "--arms", "distilled-hard,random-hard", "--draws", "1"
    hub.fault(match="POST .*/commit/", status=403, times=1)
    command = [str(PROJECT / "train_student.py"), *what, "--push-to", "bench/failed", "--private"]
    done = hub.python(f"import sys, train_student\nfrom rd3_utils import launch\nsys.argv = {command!r}\n"
                      "launch.run(train_student.main, train_student.parse())", cwd=tmp_path)  # fmt: skip
    assert done.code == 2 and "Nothing is lost: results keeps the results." in done.err, done.err
    assert len(list(tmp_path.glob("results/**/seed0.json"))) == 2 and len(list(tmp_path.glob("results/**/README.md"))) == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/**/seed0*")}
    again = done.err.strip().splitlines()[-1].partition("Push them with: ")[2]
    assert again == shlex.join(["accelerate", "launch", "--mixed_precision", "no", *command, "--push-only"])
    environment = {**os.environ, **server.settings, "OMP_NUM_THREADS": "1"}
    words = [warm.python(), "-m", "accelerate.commands.launch", *shlex.split(again)[2:]]
    done = subprocess.run(words, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0 and "pushed http" in done.stdout, done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/**/seed0*")} == before
    config = hub.python("print(*__import__('huggingface_hub').HfApi().list_repo_files('bench/failed'))").out
    assert "distilled-hard/seed0.json" in config and "random-hard/seed0.json" in config
    private = hub.python("print(__import__('huggingface_hub').HfApi().model_info('bench/failed').private)").out
    assert private.strip() == "True"


def test_a_pushed_student_is_verified_from_the_hub_and_nothing_else_of_its_repo_is_read(hub, student, tmp_path):
    done = hub.python(
        """
from huggingface_hub import HfApi
HfApi().upload_file(repo_id="bench/student", path_or_fileobj=b"raise SystemExit(9)", path_in_repo="modeling.py")
"""
    )
    assert done.code == 0, done.err
    done = hub.script("rd3_utils", "verify", "bench/student", "--json", cwd=tmp_path)
    said = json.loads(done.out)
    assert said["counts"]["contradicted"] == 0, [c for c in said["checks"] if c["outcome"] == "contradicted"]
    assert "modeling.py" in said["not_read"] and not list(tmp_path.iterdir())
    confirmed = {check["claim"] for check in said["checks"] if check["outcome"] == "confirmed"}
    commit = hub.ask("models/bench/student")["sha"]
    assert f"bench/student: the default branch is commit {commit[:12]}" in confirmed
    assert {"top-1 in percent", "model-index", "history", "commands that make it again"} <= confirmed
    forge = """
import re
from huggingface_hub import HfApi, hf_hub_download
text = open(hf_hub_download("bench/student", "README.md")).read()
text = re.sub(r"gets [0-9.]+ %", "gets 97.00 %", text)
HfApi().upload_file(repo_id="bench/student", path_or_fileobj=text.encode(), path_in_repo="README.md")
"""
    assert hub.python(forge).code == 0
    done = hub.script("rd3_utils", "verify", "bench/student", cwd=tmp_path)
    assert done.code == 1 and "97.00" in done.out, done.out
    done = hub.script("rd3_utils", "verify", "bench/nothing", cwd=tmp_path)
    assert done.code == 2 and done.err.count("error:") == 1 and "private" in done.err
