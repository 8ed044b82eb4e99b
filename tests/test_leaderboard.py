"""The leaderboard: real Runs pass, false and hostile ones are kept apart with a reason, pages stay small, inert and true."""

import copy
import dataclasses
import html.parser
import json
import os
import re
import shlex
import shutil

import pytest
from conftest import PROJECT

from rd3_utils import limits
from rd3_utils.cli.options import read_what
from rd3_utils.data import sources
from rd3_utils.errors import UserError
from rd3_utils.leaderboard import claims, entries, pages, pareto, reproduce, tolerance
from rd3_utils.leaderboard import rows as rows_of
from rd3_utils.leaderboard import site as leaderboard
from rd3_utils.leaderboard.related import Related
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.recipe import digest
from rd3_utils.scoring import runs
from rd3_utils.verification import as_trained, vetting

MEASURED = PROJECT / "measured"
RDED = "cifar10/rd3-v1-974086290837/rded-ipc10@f688766b/convnet3/distilled-soft"
HARD = "cifar10/hard-label-v1-dd5df7a75b44/random-ipc10-seed0@06e8bbc6/convnet3/random-hard/seed0.json"
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>{{7*7}}&amp;'\"$x_1$"
HTTP = re.compile(
    r"""(?:src|href|action|poster|data)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(\s*["']?(?!#|data:)""", re.IGNORECASE
)


PARTS = (
    "rd3-v1-*/random-ipc1*/convnet3",
    "rd3-v1-*/rded-ipc1*/convnet3",
    "hard-label-v1-*/random-*/convnet3",
    "teacher-v1-*/*/convnet3_bn-bf16",
)


def selection(home):
    """A folder of real Runs that stays the same while measured/ grows: RDED and random images under two protocols."""
    found = [path for part in PARTS for path in MEASURED.glob(f"cifar10/{part}/*/seed*.json")]
    for path in [*found, *MEASURED.glob("cifar10/rded-ipc1*.json")]:
        where = home / "measured" / path.relative_to(MEASURED)
        where.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, where)
    return home / "measured"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return entries.gathered_entries([selection(tmp_path_factory.mktemp("runs"))])


@pytest.fixture(scope="module")
def site(measured):
    """{path: text} of the site of the measured Runs."""
    return {path: data.decode() for path, data in leaderboard.site_files(measured).items()}


@pytest.fixture
def run():
    """A real Run, to be changed."""
    return json.loads((MEASURED / RDED / "seed0.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """folder({relative path: Run, text or bytes}) -> a folder of results that holds them."""

    def make(files, name="results"):
        for path, content in files.items():
            where = tmp_path / name / path
            where.parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, (bytes, str)) else json.dumps(content)
            where.write_bytes(data.encode() if isinstance(data, str) else data)
        return tmp_path / name

    return make


def changed(run, **fields):
    """A copy of `run` with {"a__b": value} set at run["a"]["b"]."""
    run = copy.deepcopy(run)
    for key, value in fields.items():
        *parts, last = key.split("__")
        table = run
        for part in parts:
            table = table[part]
        table[last] = value
    return run


def reasons(found):
    return [one.reason for one in found.apart]


# What is ranked


def test_every_measured_run_passes_every_check():
    """But for two teachers of fewer epochs than teacher-v1 has, which are custom."""
    files, found = list(MEASURED.glob("**/seed*.json")), entries.gathered_entries([MEASURED])
    assert sum(len(entry.runs) for entry in found.entries) == len(files) - 2 >= 34
    assert {apart.reason for apart in found.apart} == {"arm full-hard under teacher-v1, wanted teacher-v1 as it is"}
    assert len(found.apart) == 2 and found.notes == ()


def test_a_row_is_the_summary_of_its_runs(measured):
    mine = [runs.read(path) for path in (MEASURED / RDED).glob("seed*.json")]
    [entry] = [entry for entry in measured.entries if entry.name == "rded-ipc10"]
    assert entry.summary == runs.summary(mine) and entry.group.ipc == 10 and entry.about.seconds == 54.4
    drawn = [runs.read(path) for path in MEASURED.glob("cifar10/rd3-v1-*/random-ipc1-*/convnet3/random-soft/seed*.json")]
    [entry] = [e for e in measured.entries if e.is_random and e.group.ipc == 1 and e.group.protocol == "rd3-v1"]
    assert entry.summary == runs.summary(drawn) and entry.summary["draws"] == [0, 1, 2]


def test_the_baseline_of_a_row_has_its_protocol_labels_and_teacher(measured):
    related = Related(measured.entries)
    [entry] = [entry for entry in measured.entries if entry.name == "rded-ipc1"]
    random = related.of(entry, "random-soft")
    assert random.group == entry.group and random.teachers == entry.teachers and random.is_random
    scores, arms = related.scores(entry)
    assert scores["ior"]["value"] == pytest.approx(entry.summary["mean"] - random.summary["mean"]) and "lrs" not in scores


def test_the_baseline_of_a_row_saw_views_of_its_seed(measured):
    """Two sets under two views seeds are four rows: each improves over random images with its own views."""
    [mine] = [entry for entry in measured.entries if entry.name == "rded-ipc1"]
    random = Related(measured.entries).of(mine, "random-soft")

    def of(entry, seed, top1):
        runs = [dataclasses.replace(run, views_seed=seed, top1=top1) for run in entry.runs]
        return dataclasses.replace(entry, runs=tuple(runs), summary={**entry.summary, "mean": top1})

    rows = [of(mine, 0, 0.5), of(mine, 1, 0.6)]
    for others in ([of(random, 0, 0.1), of(random, 1, 0.4)], [of(random, 1, 0.4), of(random, 0, 0.1)]):
        related = Related([*rows, *others])
        assert [related.scores(row)[0]["ior"]["value"] for row in rows] == pytest.approx([0.4, 0.2])
    assert "ior" not in Related([rows[0], of(random, 1, 0.4)]).scores(rows[0])[0]


def test_hlr_and_lrs_appear_where_the_arms_are_there(run, folder):
    def of(arm, top1, protocol="rd3-v1", source="rded-ipc10", images=100, ipc=10, teachers=True):
        bench, known = benchmarks.load("cifar10"), protocols.load(protocol)
        recipe = known.resolve(bench, "convnet3", ipc, images, arm.split("-")[1])
        history = [{"epoch": i, "loss": 1.0, "learning_rate": rate} for i, rate in enumerate(as_trained.rates(recipe))]
        new = changed(run, arm=arm, top1=top1, top5=1.0, recipe=json.loads(json.dumps(recipe.as_dict())), history=history)
        name = sources.recorded(source).set_name
        new["images"] |= {"source": source, "name": name, "images": images, "ipc": ipc}
        full = as_trained.carried_run("cifar10").images.fingerprint
        new["images"]["fingerprint"] = {"full": full, "rded-ipc10": run["images"]["fingerprint"]}.get(source, f"{images:064x}")
        new["protocol"] = {"name": protocol, "digest": known.digest, "overrides": {}, "main_labels": known.main_labels,
                           "knobs": json.loads(json.dumps(known.knobs))}  # fmt: skip
        if not teachers:
            new["teachers"], new["labels"] = [], {"kind": "hard", "views_digest": recipe.views_digest, "views_seed": 0}
        return new

    files = {
        "a/seed0.json": run,
        "b/seed0.json": of("distilled-hard", 0.4, teachers=False),
        "c/seed0.json": of("random-soft", 0.47, source="random:ipc=10,seed=0"),
        "d/seed0.json": of("full-hard", 0.85, "teacher-v1", "full", 50000, 5000, teachers=False),
    }
    found = entries.gathered_entries([folder(files)])
    assert found.apart == ()
    [row] = [entry for entry in found.entries if entry.arm == "distilled-soft"]
    scores, _ = Related(found.entries).scores(row)
    assert scores["hlr"]["value"] == pytest.approx(0.85 - 0.4)
    assert scores["ior"]["value"] == pytest.approx(run["top1"] - 0.47)
    assert 0 < scores["lrs"]["value"] < 1 and not scores["lrs"]["cited"]
    assert f"{scores['lrs']['value']:.3f}" in leaderboard.site_files(found)["index.html"].decode()
    del files["d/seed0.json"]
    found = entries.gathered_entries([folder({**files}, "cited")])
    [row] = [entry for entry in found.entries if entry.arm == "distilled-soft"]
    scores, _ = Related(found.entries).scores(row)
    assert scores["hlr"]["value"] == pytest.approx(0.848 - 0.4) and "DATM" in scores["hlr"]["cited"]
    assert "DATM" in leaderboard.site_files(found)["index.html"].decode()


def test_a_custom_protocol_never_stands_under_the_released_name(run, folder):
    changed_protocol = protocols.load("rd3-v1").override(["loss.temperature=4"])
    recipe = changed_protocol.resolve(benchmarks.load("cifar10"), "convnet3", 10, 100, "soft")
    custom = changed(
        run,
        protocol__digest=changed_protocol.digest,
        protocol__overrides={"loss.temperature": 4.0},
        protocol__knobs=json.loads(json.dumps(changed_protocol.knobs)),
        recipe=json.loads(json.dumps(recipe.as_dict())),
        seed=1,
    )
    found = entries.gathered_entries([folder({"a/seed0.json": run, "b/seed1.json": custom})])
    assert found.apart == () and len(found.entries) == 2
    assert [e.group.label for e in found.entries] == ["rd3-v1", "custom, based on rd3-v1 (loss.temperature=4.0)"]
    page = leaderboard.site_files(found)[f"protocols/rd3-v1-{changed_protocol.digest}.html"].decode()
    assert "custom, based on rd3-v1" in page and "the digest is the released one" not in page


def test_precisions_are_never_in_one_row_or_table(run, folder):
    other = changed(run, environment__precision="bf16", top1=0.9, top5=0.95)
    found = entries.gathered_entries([folder({"a/seed0.json": run, "b/seed0.json": other})])
    assert [(e.group.precision, e.summary["n"]) for e in found.entries] == [("fp32", 1), ("bf16", 1)]
    assert len(entries.tables(found.entries)) == 2


def test_a_run_that_watched_the_test_split_says_so(run, folder):
    watched = changed(run, monitored_test=True)
    watched["history"][0]["test_top1"] = 0.2
    page = leaderboard.site_files(entries.gathered_entries([folder({"a/seed0.json": watched})]))["index.html"].decode()
    assert "watched the test split" in page


def test_rows_that_the_bootstrap_cannot_tell_apart_share_their_rank(run, folder):
    files = {}
    for name, tops in {"a": (0.62, 0.61, 0.6), "b": (0.609, 0.611, 0.6), "c": (0.5, 0.49, 0.495), "d": (0.9,)}.items():
        for seed, top1 in enumerate(tops):
            more = {"images__name": name, "images__fingerprint": name * 64, "top1": top1, "top5": 1.0, "seed": seed}
            files[f"{name}/seed{seed}.json"] = changed(run, **more)
    found = entries.gathered_entries([folder(files)])
    ranks = {entry.name: rank for entry, rank in entries.ranks(list(found.entries)).items()}
    assert ranks == {"d": "1-3", "a": "1-3", "b": "1-3", "c": "4"}  # a single student proves nothing


# What is not


def rehashed(run):
    """Knobs that are not rd3-v1's, with their own true digest, under its name."""
    run = changed(run, protocol__knobs__training__epochs=300)
    run["protocol"]["digest"] = digest(run["protocol"]["knobs"])
    return run


def other_protocol(run):
    """The knobs and digest of another released protocol, under the name of this one."""
    other = protocols.load("hard-label-v1")
    return changed(run, protocol__knobs=json.loads(json.dumps(other.knobs)), protocol__digest=other.digest)


def as_resnet(run):
    """The Run as if a ResNet-18 had been trained, before its initialisation was torchvision's."""
    bench, protocol = benchmarks.load(run["benchmark"]), protocols.load(run["protocol"]["name"])
    recipe = protocol.resolve(bench, "resnet18_cifar", 10, 100, "soft").as_dict()
    return {**changed(run, student="resnet18_cifar"), "recipe": json.loads(json.dumps(recipe))}


FALSE = {  # what is wrong -> (how a Run is changed, words of the reason)
    "a score of 1.7": (lambda r: changed(r, top1=1.7), "top1 is 1.7, wanted a fraction"),
    "percent": (lambda r: changed(r, top1=51.36), "top1 is 51.36, wanted a fraction"),
    "a negative score": (lambda r: changed(r, top1=-0.1), "top1 is -0.1"),
    "true as a score": (lambda r: changed(r, top1=True), "top1 is True"),
    "a score that no number of images has": (lambda r: changed(r, top1=0.51361234), "no whole number of 10000 images"),
    "top-5 below top-1": (lambda r: changed(r, top5=0.1), "less than top1"),
    "half of the test split": (lambda r: changed(r, images_scored=5000), "scored 5000 test images"),
    "another protocol's digest": (lambda r: changed(r, protocol__digest="dd5df7a75b44"), "states protocol digest dd5df7a75b44"),
    "another protocol's knobs and digest": (other_protocol, "says rd3-v1, but its knobs have digest"),
    "other knobs under a released name": (rehashed, "says rd3-v1, but its knobs have digest"),
    "an unknown knob": (lambda r: changed(r, protocol__knobs__training__luck=1), "none of ours"),
    "knobs that are a list": (lambda r: changed(r, protocol__knobs=[]), "protocol.knobs is []"),
    "another recipe": (lambda r: changed(r, recipe__training__learning_rate=0.01), "its protocol makes it 0.001"),
    "more images": (lambda r: changed(r, recipe__images=500), "its recipe has 'images' 500"),
    "a best epoch": (lambda r: {**r, "history": r["history"][:287]}, "not the last epoch's"),
    "epochs out of order": (lambda r: {**r, "history": r["history"][::-1]}, "epoch 399 stands at place 0"),
    "a hidden watch": (lambda r: {**r, "history": [{**h, "test_top1": 0.5} for h in r["history"]]}, "monitored_test says"),
    "no fingerprint": (lambda r: changed(r, images__fingerprint="abc"), "images.fingerprint is 'abc'"),
    "a fingerprint in capitals": (lambda r: changed(r, test__fingerprint="A" * 64), "test.fingerprint is"),
    "a seed below 0": (lambda r: changed(r, seed=-1), "seed is -1"),
    "a seed in words": (lambda r: changed(r, seed="0"), "seed is '0'"),
    "a seed beyond all bounds": (lambda r: changed(r, seed=10**400), "too large a number"),
    "no teacher": (lambda r: changed(r, teachers=[]), "0 teachers, its recipe has 1"),
    "a teacher without weights": (lambda r: changed(r, teachers=[{"source": "x"}]), "one of teachers lacks commit"),
    "no environment": (lambda r: {k: v for k, v in r.items() if k != "environment"}, "lacks environment"),
    "another schema": (lambda r: changed(r, schema=3), "schema is 3, wanted 1 or 2"),
    "today's schema without its keys": (lambda r: changed(r, schema=2), "lacks views"),
    "a network drawn as before": (lambda r: as_resnet(r), "resnet18_cifar has initialisation 1, today's is 2, torchvision's"),
    "an unknown benchmark": (lambda r: changed(r, benchmark="mnist"), "benchmark 'mnist' is none of ours"),
    "a path as benchmark": (lambda r: changed(r, benchmark="../../etc/passwd"), "benchmark is '../../etc/passwd'"),
    "a path as protocol": (lambda r: changed(r, protocol__name="../rd3-v1"), "protocol.name is"),
    "a page as student": (lambda r: changed(r, student=HOSTILE), "student is"),
    "an invisible name": (lambda r: changed(r, images__name="rded\u202eipc10"), "images.name is 'rded\\u202eipc10'"),
    "an endless name": (lambda r: changed(r, images__name="x" * 100_000), "images.name is"),
    "an arm that is none": (lambda r: changed(r, arm=["distilled-soft"]), "arm is"),
    "a random arm of made images": (lambda r: changed(r, arm="random-soft"), "wanted a selection"),
    "nine images per class": (lambda r: changed(r, images__ipc=9), "100 images, but 9 per class of 10 are 90"),
    "an unknown precision": (lambda r: changed(r, environment__precision="fp4"), "environment.precision is"),
    "NaN": (lambda r: json.dumps(changed(r, top1=float("nan"))), "NaN is no number of JSON"),
    "Infinity": (lambda r: json.dumps(changed(r, seconds=float("inf"))), "Infinity is no number of JSON"),
    "a number beyond all bounds": (lambda r: json.dumps(r).replace('"seconds": 2', '"seconds": 1e999, "x": 2', 1), "no finite"),
    "a key twice": (lambda r: json.dumps(r).replace('"top1": 0.5136', '"top1": 0.5136, "top1": 0.9', 1), "more than once"),
    "no JSON": (lambda r: "<html>", "not JSON"),
    "nothing": (lambda r: "", "not JSON"),
    "bytes": (lambda r: b"\xff\xfe\x00pickle", "not JSON"),
    "a list": (lambda r: [r], "wanted 1 or 2"),
    "deep nesting": (lambda r: "[" * 200_000 + "]" * 200_000, "nested too deeply"),
    "deep nesting in a knob": (lambda r: json.dumps(r).replace('"betas": [', '"betas": [' + "[" * 10**5 + "]" * 10**5 + ",", 1),
                               "nested too deeply"),
    "deep nesting in what nobody reads": (lambda r: json.dumps(r)[:-1] + ', "corrected": {"x": ' + "[" * 700 + "]" * 700 + "}}",
                                          "nested too deeply"),
    "a knob of a million characters": (lambda r: changed(r, protocol__knobs__x="y" * 10**6), "wanted at most"),
}  # fmt: skip


@pytest.mark.parametrize("what", FALSE)
def test_is_kept_apart_with_its_reason(what, run, folder, tmp_path):
    change, words = FALSE[what]
    found = entries.gathered_entries([folder({"good/seed1.json": changed(run, seed=1), "bad/seed0.json": change(run)})])
    assert [(one.path, words in one.reason) for one in found.apart] == [("bad/seed0.json", True)], reasons(found)
    assert len(found.apart[0].reason) < 400 and "\n" not in found.apart[0].reason
    assert [entry.summary["n"] for entry in found.entries] == [1]  # the good one is ranked, alone
    page = leaderboard.site_files(found)["not-ranked.html"].decode()
    assert "bad/seed0.json" in page


def test_two_runs_that_say_they_are_one_are_both_kept_apart(run, folder):
    files = {"a/seed0.json": run, "b/seed0.json": changed(run, top1=0.9, top5=0.95), "c/seed1.json": changed(run, seed=1)}
    found = entries.gathered_entries([folder(files)])
    assert [one.path for one in found.apart] == ["a/seed0.json", "b/seed0.json"]
    assert all("one and the same, top-1 0.5136, 0.9000" in reason for reason in reasons(found))
    assert [entry.summary["seeds"] for entry in found.entries] == [[1]]


def test_of_several_runs_of_one_student_the_one_of_later_software_is_ranked(run, folder):
    """And of none later where one part is older, or the scores of the same software differ."""
    older, newer = {"torch": "2.9.1+cpu", "numpy": "2.4.6"}, {"torch": "2.10.0", "numpy": "2.4.6"}
    mixed = {"torch": "2.11.0", "numpy": "1.26.4"}

    def of(top1, versions, seed=0):
        return changed(run, top1=top1, top5=0.95, environment__versions=versions, seed=seed)

    here = {"a/seed0.json": of(0.9, older), "b/seed0.json": of(0.5, newer), "c/seed0.json": of(0.4, older)}
    found = entries.gathered_entries([folder(here, "here")])
    assert [one.top1 for entry in found.entries for one in entry.runs] == [0.5]
    assert reasons(found) == ["the same student as b/seed0.json, of later software, which is ranked"] * 2
    again = changed(of(0.5, newer), seconds=1.0)
    found = entries.gathered_entries([folder({"a/seed0.json": of(0.5, newer), "b/seed0.json": again}, "again")])
    assert reasons(found) == ["the same student as a/seed0.json, with the same score, which is ranked"]
    for other in (mixed, newer, {**newer, "timm": "1"}):
        found = entries.gathered_entries([folder({"a/seed0.json": of(0.5, newer), "b/seed0.json": of(0.9, other)}, "other")])
        assert len(found.apart) == 2 and not found.entries


def test_runs_that_an_older_one_brings_together_are_one_of_each_seed(run, folder):
    """Labels of two forward batches are two kinds; a Run of schema 1 that states none may be of either, and stops nothing."""

    def of(batch, top1):
        return vetted(changed(run, labels__forward_batch=batch, top1=top1, top5=1.0))

    gathering, origin = entries.Gathering(), entries.Origin("folder", "here")
    gathering.protocols, gathering.runs = {}, []
    for i, one in enumerate([of(None, 0.3), of(50, 0.3), of(100, 0.5)]):
        gathering.runs.append(entries.Listed(one, origin, f"{i}/seed0.json"))
    found = entries.settled(gathering)
    assert sorted(entry.summary["n"] for entry in found.entries) == [1]
    assert len(found.apart) == 2 and "is ranked" in reasons(found)[0]
    leaderboard.site_files(found)


def vetted(run):
    """A Run as the board holds it, `run` (plain data) not compared with what training writes."""
    one = runs.of(json.loads(json.dumps(run)))
    return dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, knobs={}), history=[])


def test_thousands_of_runs_of_one_row_are_compared_as_often_as_they_have_kinds(run, monkeypatch):
    counted = []
    compare = entries.measure.same_measure
    monkeypatch.setattr(entries.measure, "same_measure", lambda *given, **more: counted.append(1) or compare(*given, **more))
    one, gathering, origin = vetted(run), entries.Gathering(), entries.Origin("hub", "somebody/board", "1" * 40)
    for seed in range(3000):
        labels = dataclasses.replace(one.labels, forward_batch=1 + seed % 1500)
        gathering.runs.append(entries.Listed(dataclasses.replace(one, seed=seed, labels=labels), origin, f"{seed}"))
    found = entries.settled(gathering)
    assert len(found.entries) == limits.MOST_KINDS and len(found.apart) + found.left_out == 3000 - 2 * limits.MOST_KINDS
    assert len(counted) < 30_000


def test_copies_count_once_wherever_they_lie(run, folder):
    one, two = folder({"a/seed0.json": run, "b/seed0.json": run}, "one"), folder({"a/seed0.json": run}, "two")
    [entry] = entries.gathered_entries([one, two]).entries
    assert entry.summary["n"] == 1 and [other.name for other in entry.also] == ["two"] and entry.origin.name == "one"


def test_a_repo_cannot_outvote_a_folder_about_the_test_images(run, folder):
    false = {f"r/seed{k}.json": changed(run, seed=k, test__fingerprint="0" * 64, top1=0.99, top5=1.0) for k in range(9)}
    here, there = folder({"a/seed0.json": run}, "here"), folder(false, "there")
    origin = entries.Origin("hub", "somebody/board", "1" * 40)
    found = entries.gathered_entries([here], [(origin, list(entries.local_files(there)))])
    assert [entry.origin.name for entry in found.entries] == ["here"] and len(found.apart) == 9
    assert all("other test images (00000000)" in reason for reason in reasons(found))


def test_of_a_test_split_that_comes_with_the_project_no_number_of_folders_makes_another(run, folder):
    false = [folder({f"r/seed{k}.json": changed(run, seed=k, test__fingerprint="0" * 64)}, f"false{k}") for k in range(3)]
    found = entries.gathered_entries([*false, folder({"a/seed9.json": changed(run, seed=9)}, "true")])
    assert [entry.origin.name for entry in found.entries] == ["true"]
    assert set(reasons(found)) == {"other test images (00000000) than cifar10 has (ba1950a1)"}


def test_of_repos_alone_more_origins_weigh_more_than_more_runs(run, folder, monkeypatch):
    """Where nothing that comes with the project says which test images are the true ones."""
    monkeypatch.setattr(as_trained, "carried_run", lambda benchmark: None)
    true = folder({"a/seed0.json": run}, "true")
    false = folder({f"r/seed{k}.json": changed(run, seed=k, test__fingerprint="0" * 64) for k in range(9)}, "false")
    origins = [entries.Origin("hub", f"user{k}/repo", str(k) * 40) for k in range(3)]
    sources = [(origins[0], list(entries.local_files(false))), (origins[1], list(entries.local_files(true)))]
    other = folder({"a/seed5.json": changed(run, seed=5)}, "other")
    found = entries.gathered_entries([], [*sources, (origins[2], list(entries.local_files(other)))])
    assert {entry.origin.name for entry in found.entries} == {"user1/repo", "user2/repo"} and len(found.apart) == 9


def test_random_images_of_one_draw_must_be_the_same_images(folder):
    drawn = json.loads((MEASURED / HARD).read_text())
    here = folder({"a/seed0.json": drawn}, "here")
    there = folder({"a/seed1.json": changed(drawn, seed=1, images__fingerprint="0" * 64)}, "there")
    found = entries.gathered_entries([here, there])
    assert [reason[:17] for reason in reasons(found)] == ["other real images"]


SPELLINGS = [
    "random:ipc=10,seed=00", "random:ipc=010,seed=0", "random:ipc=10,seed=+0", "random:ipc=10,seed=-0",
    "random:ipc=10,seed=0 ", "random:ipc=10,seed=0,", "random:ipc=10,seed=0x0", "random:ipc=10,seed=0.0",
    "random:ipc=10,seed=0e0", "random:ipc=10,seed=", "random:ipc=10", "random:seed=0,ipc=10", "random:ipc=10,seed=0,seed=0",
    "random:ipc=1_0,seed=0", "random:ipc=0,seed=0", "random:ipc=\u0661\u0660,seed=\u0660",
    "random:ipc=\uff11\uff10,seed=\uff10", "random:ipc=10,seed=\u00b2", "random:", "random:ipc=10,seed=0:x",
    "random:ipc=10,seed=0@main", " random:ipc=10,seed=0", "Random:ipc=10,seed=0", "random :ipc=10,seed=0",
    "r\u0430ndom:ipc=10,seed=0", "\uff52andom:ipc=10,seed=0", "./random:ipc=10,seed=0", "random/ipc=10,seed=0", "full ",
    "FULL", "full:", "full:ipc=10", "held-out:ipc=10", "random:ipc=10,seed=9223372036854775808",
    "random:ipc=10,seed=999999999999999999999",
]  # fmt: skip


def test_no_other_spelling_of_a_source_is_random_images_or_stops_the_board(run, folder):
    """Each as the images of a random and of a distilled arm, with a score that would be a fine baseline to beat."""
    files = {"a/seed0.json": run}
    for i, text in enumerate(SPELLINGS):
        for arm in ("random", "distilled"):
            images = {"images__source": text, "images__name": "random-ipc10-seed0", "images__fingerprint": f"{i:064x}"}
            files[f"{arm}/{i}/seed{i}.json"] = changed(run, arm=f"{arm}-soft", seed=i, top1=0.0001, **images)
    found = entries.gathered_entries([folder(files)])
    assert not any(entry.is_random or entry.group.full or entry.arm != "distilled-soft" for entry in found.entries)
    [row] = [entry for entry in found.entries if entry.name == "rded-ipc10"]
    assert Related(found.entries).of(row, "random-soft") is None
    assert sum(entry.summary["n"] for entry in found.entries) + len(found.apart) == len(files)
    index = leaderboard.site_files(found)["index.html"].decode()
    assert "random-ipc10-seed0" in index  # of those that read as a folder, as any other folder's


def drawn_of(run, top1, draw=0, seed=0):
    """Ten random images per class, beside `run`."""
    images = {"source": f"random:ipc=10,seed={draw}", "name": f"random-ipc10-seed{draw}", "fingerprint": f"{draw:064x}"}
    new = changed(run, arm="random-soft", top1=top1, top5=1.0, seed=seed)
    return {**new, "images": {**new["images"], **images}}


def test_a_baseline_is_of_the_row_s_own_origin_else_the_row_says_whose(run, folder):
    """Of its own, else of a folder, else of a repo: which the row names wherever it shows a number that rests on it."""
    mine, theirs = (
        folder({"a/seed0.json": run, "b/seed0.json": drawn_of(run, 0.3)}, "mine"),
        folder({"b/seed0.json": drawn_of(run, 0.1)}, "theirs"),
    )
    alone = folder({"a/seed0.json": run}, "alone")
    repo = entries.Origin("hub", "aaa/first", "1" * 40, "https://hub.invalid/aaa/first")

    def row(folders, repos):
        found = entries.gathered_entries(folders, repos)
        [entry] = [entry for entry in found.entries if not entry.is_random]
        board = pages.Board(found)
        page = leaderboard.site_files(found)["index.html"].decode()
        return board.row(entry), board.row(entry)["random_entry"].origin.name, page

    hub = [(repo, list(entries.local_files(theirs)))]
    own, whose, page = row([mine], hub)
    assert (whose, own["random"], own["borrowed"]) == ("mine", 0.3, []) and "of aaa/first" not in page
    borrowed, whose, page = row([alone], hub)
    assert (whose, borrowed["random"]) == ("aaa/first", 0.1)
    assert [(arm, other.origin) for arm, other in borrowed["borrowed"]] == [("random-soft", repo)]
    assert '<span class="under">of aaa/first</span>' in page and "With students of another origin: random-soft of" in page
    _, whose, page = row([alone, theirs], [(repo, list(entries.local_files(mine)))][:0] + hub)
    assert whose == "theirs" and '<span class="under">of theirs</span>' in page


def test_an_origin_that_makes_a_page_or_a_table_fail_is_set_apart_and_the_rest_is_shown(run, folder, monkeypatch, tmp_path):
    good, bad = folder({"a/seed0.json": run}, "good"), folder({"a/seed1.json": changed(run, seed=1)}, "bad")
    made_row, of_runs = pages.Board.made_row, entries.run_files.summary

    def fails(board, entry):
        return 1 / 0 if entry.origin.name == "bad" else made_row(board, entry)

    with monkeypatch.context() as patched:
        patched.setattr(pages.Board, "made_row", fails)
        files, shown = leaderboard.build_site(entries.gathered_entries([good, bad]), tmp_path / "site")
    assert [entry.origin.name for entry in shown.entries] == ["good"] and "bad" in files["not-ranked.html"].decode()
    with monkeypatch.context() as patched:
        patched.setattr(entries.run_files, "summary", lambda runs: 1 / 0 if runs[0].seed == 1 else of_runs(runs))
        found = entries.gathered_entries([good, bad])
    assert [entry.origin.name for entry in found.entries] == ["good"]
    assert reasons(found) == ["its Runs pass each check and cannot be shown (ZeroDivisionError)"]
    with monkeypatch.context() as patched, pytest.raises(RecursionError):  # not the fault of any Run
        patched.setattr(pages.Board, "apart_page", lambda board: (_ for _ in ()).throw(RecursionError()))
        leaderboard.build_site(found, tmp_path / "site")


def test_origins_are_left_out_one_by_one_until_the_rest_can_be_made():
    def make(some):
        if 3 in some or {2, 5} <= some:
            raise ValueError
        return sorted(some)

    assert tolerance.tolerant([1, 2, 3, 4, 5], make)[0] == [1, 2, 4]
    assert set(tolerance.tolerant([1, 2, 3, 4, 5], make)[1]) == {3, 5}


# What a folder may do to us


def test_a_file_of_a_gigabyte_is_not_read(folder, run):
    where = folder({"a/seed0.json": run, "b/seed0.json": ""})
    os.truncate(where / "b/seed0.json", 10**9)  # sparse
    assert reasons(entries.gathered_entries([where])) == ["1 GB, a Run has at most 4 MB"]


def test_links_and_pipes_are_not_followed(folder, run, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(run))
    where = folder({"a/seed0.json": run})
    (where / "b").mkdir()
    (where / "b/seed0.json").symlink_to(secret)
    (where / "c").symlink_to(tmp_path)
    (where / "d").mkdir()
    os.mkfifo(where / "d/seed0.json")
    found = entries.gathered_entries([where])
    assert reasons(found) == ["a link, which is not followed", "no regular file"]
    assert [entry.summary["n"] for entry in found.entries] == [1]


def test_more_runs_than_the_limit_are_left_out_and_said(folder, run, monkeypatch):
    monkeypatch.setattr(limits, "MOST_RUNS_OF_ONE", 3)
    found = entries.gathered_entries([folder({f"a/seed{k}.json": changed(run, seed=k) for k in range(7)})])
    assert [entry.summary["n"] for entry in found.entries] == [3]
    assert "only its first 3 Run files were read" in found.notes[0]
    assert "only its first 3 Run files were read" in leaderboard.site_files(found)["index.html"].decode()


def test_more_false_files_than_the_limit_are_counted(folder, run, monkeypatch):
    monkeypatch.setattr(limits, "MOST_APART", 2)
    found = entries.gathered_entries([folder({f"a/seed{k}.json": "no" for k in range(7)})])
    assert (len(found.apart), found.left_out) == (2, 5)
    assert "5 further files are not named here" in leaderboard.site_files(found)["not-ranked.html"].decode()


def many(run, names, seeds=1):
    """A Found of as many image sets of the table of `run`, each as if it had been read and vetted."""
    one, protocol = vetting.vetted(json.dumps(run).encode())
    found = entries.Gathering()
    found.protocols[one.protocol.digest] = protocol
    origin = entries.Origin("hub", "somebody/board", "1" * 40, "https://hub.invalid/somebody/board/tree/" + "1" * 40)
    for i, name in enumerate(names):
        for seed in range(seeds):
            images = entries.replace(one.images, name=name, source=name, fingerprint=f"{i:064x}")
            run = entries.replace(one, images=images, seed=seed, top1=i % 5000 / 10000)
            found.runs.append(entries.Listed(run, origin, f"runs/seed{seed}.json"))
    return entries.settled(found)


def test_a_flood_of_rows_makes_small_pages(run):
    found = many(run, [f"set {i} {HOSTILE}" for i in range(8_000)])
    files = leaderboard.site_files(found)
    assert max(len(data) for path, data in files.items() if path.endswith(".html")) < 1_500_000
    assert f"{8_000 - pages.ROWS} of 8000 rows are not shown here" in files["index.html"].decode()
    parts = json.loads(files["data/site.json"])["files"]
    rows = [row for name in parts for row in json.loads(files[f"data/{name}"])]
    assert len(rows) == 8_000 and len(parts) == 8


def test_many_tables_fit_a_page(run):
    found = many(run, [f"set{i}" for i in range(300)])
    spread = []
    for i, entry in enumerate(found.entries):
        group = entries.replace(entry.group, student=f"student{i % 150}")
        spread.append(entries.replace(entry, group=group))
    page = leaderboard.site_files(entries.replace(found, entries=tuple(spread)))["index.html"]
    assert len(page) < 1_500_000 and page.count(b'<section class="table"') == pages.PAGE_TABLES
    assert b"Further tables" in page


class Tags(html.parser.HTMLParser):
    """All tags with their attributes, and which are a document's own text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_names_of_strangers_are_text_and_nothing_else(run, folder):
    evil = changed(run, images__name=HOSTILE, images__source=HOSTILE, environment__devices=HOSTILE, environment__git=HOSTILE)
    evil["environment"]["versions"] = {HOSTILE[:150]: HOSTILE}
    evil["teachers"][0] |= {"source": HOSTILE, "architecture": HOSTILE, "sha256": "0" * 64}
    evil["labels"]["teachers_id"] = "0" * 64
    origin = entries.Origin("hub", HOSTILE, "1" * 40, "javascript:alert(3)")
    where = folder({"a/seed0.json": evil, f"{HOSTILE[4:14]}/seed1.json": "no"})
    for found in (
        entries.gathered_entries([where]),
        entries.gathered_entries([], [(origin, list(entries.local_files(where)))]),
    ):
        assert len(found.entries) == 1 and len(found.apart) == 1
        for path, data in leaderboard.site_files(found).items():
            text = data.decode()
            if path.endswith(".json"):
                assert "<" not in text and json.loads(text) is not None
            if not path.endswith(".html"):
                continue
            page = Tags(text)
            assert not any(tag in ("img", "iframe", "object", "embed", "base", "foreignobject") for tag, _ in page.tags)
            assert [tag for tag, _ in page.tags].count("script") == (path == "index.html")
            for tag, attributes in page.tags:
                assert not any(name.startswith("on") for name in attributes) and "style" not in attributes, (path, tag)
                assert not attributes.get("href", "").strip().lower().startswith("javascript")
        page = Tags(leaderboard.site_files(found)["index.html"].decode())
        assert any(HOSTILE in text for text in page.texts)  # shown as it is


# The site


def test_the_same_runs_give_the_same_bytes(measured, site):
    assert {path: data.decode() for path, data in leaderboard.site_files(measured).items()} == site


def test_no_page_asks_for_anything_from_elsewhere(site):
    for path, text in site.items():
        if path.endswith(".html"):
            ours = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
            assert not HTTP.search(ours), (path, HTTP.search(ours))
            policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
            assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert len(text) < 1_500_000


def test_links_within_the_site_lead_somewhere(site):
    for path, text in site.items():
        if not path.endswith(".html"):
            continue
        ids = {attributes["id"] for _, attributes in Tags(text).tags if "id" in attributes}
        for tag, attributes in Tags(re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)).tags:
            href = attributes.get("href", "")
            if tag != "a" or "://" in href:
                continue
            file, _, anchor = href.partition("#")
            there = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
            assert there in site, (path, href)
            if anchor:
                assert anchor in (ids if there == path else {a.get("id") for _, a in Tags(site[there]).tags}), (path, href)


def test_every_knob_of_a_protocol_stands_with_its_source(site):
    known = protocols.load("rd3-v1")
    page = " ".join(Tags(site[f"protocols/rd3-v1-{known.digest}.html"]).texts)
    for key, source in known.sources.items():
        assert key in page and source in page
    assert known.published_selection in page


def test_a_former_site_is_replaced_and_anything_else_is_not(measured, tmp_path):
    leaderboard.build_site(measured, tmp_path / "site")
    (tmp_path / "site/old.html").write_text("old")
    leaderboard.build_site(measured, tmp_path / "site")
    assert not (tmp_path / "site/old.html").exists() and (tmp_path / "site/index.html").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="no leaderboard of ours"):
        leaderboard.build_site(measured, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "site"]  # nothing half-written


def test_the_command_writes_a_site_and_says_what_is_in_it(script, tmp_path):
    done = script("rd3_utils", "leaderboard", "--results", selection(tmp_path), "--out", "site")
    assert done.code == 0, done.err
    assert done.out == "8 entries of 34 Runs, 0 files not ranked: site/index.html\n"
    assert (tmp_path / "site/protocols/rd3-v1-974086290837.html").is_file()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--out", "site"], "a leaderboard needs Runs"),
        (["--results", "nowhere", "--out", "site"], "no such folder"),
        (["--results", MEASURED, "--out", "site", "--private"], "--private needs --publish"),
        (["--results", MEASURED, "--out", "."], None),
        (["--hub-repos", "not a repo", "--out", "site"], "OWNER/REPO"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(script, tmp_path, arguments, words):
    if words is None:
        (tmp_path / "thesis.tex").write_text("mine")
        words = "no leaderboard of ours"
    done = script("rd3_utils", "leaderboard", *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "site").exists()


def test_a_row_s_command_makes_its_runs(measured, monkeypatch):
    import train_student

    for entry in measured.entries:
        line = reproduce.reproduce(entry)[-1]
        words = shlex.split(line)
        monkeypatch.setattr("sys.argv", words[words.index("train_student.py") :])
        options = train_student.parse()
        bench, protocol = read_what(options)
        first = entry.runs[0]
        assert bench.name == first.benchmark and options.arms == entry.arm
        assert protocol.digest == first.protocol.digest
        assert options.seeds == tuple(entry.summary["seeds"]) and options.views_seed == first.views_seed
        assert (options.student or bench.defaults.student) == first.student
        assert ("--mixed_precision" in words) == (entry.group.precision != "fp32")
        assert options.teacher == (("default",) if entry.teachers else ())  # whatever its folder was called when it labelled
        if entry.is_random:
            assert options.draws == len(entry.summary["draws"])
        else:
            assert options.distilled == first.images.source


# Published numbers


def test_claims_are_fractions_of_benchmarks_students_and_protocols_that_there_are():
    methods, found = claims.claims_table()
    released = set(protocols.names()) | {""}
    for claim in found:
        assert claim.method in methods and claim.benchmark in benchmarks.names() and claim.protocol in released
        assert claim.labels in ("soft", "hard") and claim.source and claim.top1
        for ipc, (mean, *std) in claim.top1.items():
            assert int(ipc) > 0 and 0 < mean < 1 and all(0 <= s < 0.1 for s in std) and len(std) < 2
    keys = [(c.method, c.benchmark, c.student, c.source, c.protocol) for c in found]
    assert len(set(keys)) == len(keys)


def test_claims_are_the_published_numbers():
    found = {(c.method, c.benchmark, c.student, c.protocol): c.top1 for c in claims.claims_table()[1]}
    assert found["rded", "cifar10", "resnet18_cifar", "rded-v1"] == {
        "1": [0.229, 0.004],
        "10": [0.371, 0.003],
        "50": [0.621, 0.001],
    }
    assert found["rded", "cifar10", "convnet3_bn", "rded-v1"]["10"] == [0.502, 0.003]
    assert found["edc", "imagenet-1k", "resnet18", "rd3-v1"] == {"10": [0.469], "50": [0.601]}
    assert found["random", "cifar10", "convnet3", "hard-label-v1"] == {
        "1": [0.144, 0.02],
        "10": [0.26, 0.012],
        "50": [0.434, 0.01],
    }


def test_claimed_stands_beside_measured(site):
    page = " ".join(" ".join(Tags(site["index.html"]).texts).split())
    assert "43.40 ± 1.00" in page and "Dataset Condensation with Gradient Matching, ICLR 2021, Table 1" in page


def test_a_published_number_is_subtracted_only_within_one_protocol(measured):
    """And one of another protocol stands with that protocol's name."""
    board, kinds = pages.Board(measured), set()
    texts = {group: " ".join(board.table_page(group, rows).decode().split()) for group, rows in board.tables.items()}
    for group, rows in board.tables.items():
        for row in map(board.row, rows):
            for claim, mean, _ in row["claims"]:
                same = (claim.protocol, claim.labels, group.custom) == (group.protocol, group.labels, False)
                points = f"measured here {rows_of.signed(row['mean'] - mean)} points"
                assert (points in texts[group]) == same and (claim.protocol in texts[group] or not claim.protocol)
                kinds.add(same)
    assert kinds == {True, False}


@pytest.mark.parametrize(
    "name, source, commit, method",
    [
        ("rded-ipc10", "rded-ipc10", None, "rded"),
        ("cifar10-rded-ipc10", "x", None, "rded"),
        ("my-rded-ipc10", "x", None, None),
        ("rded-ipc10-mine", "x", None, None),
        ("rded-ipc50", "x", None, None),  # another IPC than the images'
        ("RDED", "x", None, None),
        ("unheard-ipc10", "x", None, None),
        # that repo holds another benchmark
        ("2025-rethinkdc-imagenet-rded-ipc-10", "he-yang/2025-rethinkdc-imagenet-rded-ipc-10", "1" * 40, None),
    ],
)
def test_a_method_is_recognised_by_what_says_so_and_never_by_likeness(run, folder, name, source, commit, method):
    named = changed(run, images__name=name, images__source=source, images__commit=commit)
    [entry] = entries.gathered_entries([folder({"a/seed0.json": named})]).entries
    assert claims.method_of(entry)[0] == method


def test_distilled_json_is_about_the_images_of_its_fingerprint_alone(run, folder):
    about = {"method": "dm", "ipc": 10, "fingerprint": "0" * 64, "seconds": 1.0}
    where = folder({"a/seed0.json": changed(run, images__name="mine"), "a/distilled.json": about})
    [entry] = entries.gathered_entries([where]).entries
    assert entry.about is None and entry.seconds is None
    folder({"a/distilled.json": {**about, "fingerprint": run["images"]["fingerprint"]}})
    [entry] = entries.gathered_entries([where]).entries
    assert claims.method_of(entry) == ("dm", "distilled.json of these images") and entry.seconds == 1.0


# Plots


def test_the_front_is_what_no_point_beats():
    import random

    chance = random.Random(0)
    points = [pareto.Point(chance.randrange(9), chance.randrange(9) / 10, None, "", "", "", "") for _ in range(60)]
    front = pareto.front(points)
    for p in points:
        beaten = any(q.x <= p.x and q.mean >= p.mean and (q.x < p.x or q.mean > p.mean) for q in points)
        assert (any((q.x, q.mean) == (p.x, p.mean) for q in front)) == (not beaten)


def test_names_of_points_that_lie_close_together_do_not_cover_one_another():
    """Of twelve entries of one cost, half of them all but equal, every name has a line of its own, in the drawn picture."""
    tops = [0.5 + 0.001 * i for i in range(6)] + [0.1 * i for i in range(1, 5)] + [0.47, 0.53]
    points = [pareto.Point(2.0, top, None, f"set {i}", "", f"#{i}", str(i)) for i, top in enumerate(tops)]
    drawn = pareto.figure(points, [str(i) for i in range(len(points))], "MB", "close", "p")
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>set \d+', drawn)
    lines = sorted(float(y) for _, y in places)
    assert len(lines) == len(points) and len({x for x, _ in places}) == 1
    assert min(b - a for a, b in zip(lines, lines[1:])) > pareto.NAME_SIZE


@pytest.mark.parametrize(
    "costs, least", [((1.8, 1.80001), 2), ((1.0, 2.2), 2), ((0.2, 9.0), 5), ((0, 30, 31), 2), ((3.0, 3.0), 2)]
)
def test_an_axis_of_costs_has_numbers_however_near_they_are(costs, least):
    points = [pareto.Point(x, 0.5 + 0.01 * i, None, f"set {i}", "", f"#{i}", str(i)) for i, x in enumerate(costs)]
    drawn = pareto.figure(points, [str(i) for i in range(len(points))], "MB", "near", "p")
    numbers = re.findall(r">([\d.]+)</text>", drawn.split(">MB</text>")[0])  # of the axis below; that of top-1 is drawn later
    assert len(numbers) == len(set(numbers)) >= least


def test_a_plot_has_no_style_and_its_text_is_text():
    points = [pareto.Point(x, 0.1 * x, 0.01, f"{HOSTILE} {x}", HOSTILE, f"#row{x}", str(x)) for x in range(1, 13)]
    drawn = pareto.figure(points, [str(x) for x in range(1, 13)], "MB", HOSTILE, "p")
    page = Tags(drawn)
    assert not any("style" in attributes for _, attributes in page.tags) and "#05" not in drawn and "#01" not in drawn
    assert {tag for tag, _ in page.tags} <= {
        "svg",
        "defs",
        "g",
        "path",
        "use",
        "text",
        "tspan",
        "a",
        "title",
        "clippath",
        "rect",
    }
    assert [a["href"] for tag, a in page.tags if tag == "a"] == [f"#row{x}" for x in range(1, 13)]
    assert any(HOSTILE in text for text in page.texts)
    assert shutil.which("chromium") is None or drawn.startswith("<svg")
