"""The leaderboard over real HTTP: Runs of Hub repos are read at a commit, and a site is pushed as a static Space, once."""

import json
import re
import shutil

import pytest
from test_hub import server  # noqa: F401  (the fixture)
from test_leaderboard import HOSTILE, MEASURED, RDED, changed, selection
from test_publishing import healed, hub  # noqa: F401  (fixtures)

from rd3_utils.data import embedded

TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"

CARD = "---\ntags:\n- rd3\n---\n# A student\n"


def upload(hub, repo, files, kind="model", **where):  # noqa: F811
    """Put {path: text} into a repo, made if missing."""
    done = hub.python(
        f"""
from huggingface_hub import CommitOperationAdd, HfApi
files = {files!r}
sdk = "static" if {kind!r} == "space" else None
HfApi().create_repo({repo!r}, repo_type={kind!r}, exist_ok=True, space_sdk=sdk)
print(HfApi().create_commit({repo!r}, [CommitOperationAdd(p, t.encode()) for p, t in files.items()], commit_message="files",
                            repo_type={kind!r}).oid)
""",
        **where,
    )
    assert done.code == 0, done.err
    return done.out.strip()


@pytest.fixture(scope="module")
def students(hub):  # noqa: F811
    """Repos with the tag rd3: bench/good (three Runs of RDED), bench/false (a score of 1.7, a huge file, a path trick) and
    bench/empty; and bench/untagged, as good as the first. {repo: commit}"""
    runs = {f"runs/{RDED}/seed{k}.json": (MEASURED / RDED / f"seed{k}.json").read_text() for k in range(3)}
    run = json.loads((MEASURED / RDED / "seed0.json").read_text())
    false = {
        "runs/a/seed0.json": json.dumps(changed(run, top1=1.7)),
        "runs/a/seed1.json": " " * 5_000_000,
        "runs/b/seed0.json": json.dumps(changed(run, images__name=HOSTILE, images__fingerprint="0" * 64)),
        "config.json": "{}",
        "seed0.json": json.dumps(run),  # not under runs/
    }
    other = {"runs/a/seed9.json": json.dumps(changed(run, seed=9))}
    return {
        "bench/good": upload(hub, "bench/good", {"README.md": CARD, **runs}),
        "bench/false": upload(hub, "bench/false", {"README.md": CARD, **false}),
        "bench/empty": upload(hub, "bench/empty", {"README.md": CARD}),
        "bench/untagged": upload(hub, "bench/untagged", {"README.md": "# no tag\n", **other}),
    }


def test_repos_of_a_tag_are_read_at_their_commit_and_linked(hub, students):  # noqa: F811
    done = hub.script("rd3_utils", "leaderboard", "--hub-tag", "rd3", "--out", "tagged")
    assert done.code == 0, done.err
    assert done.out.startswith("2 entries of 4 Runs, 3 files not ranked")
    [table] = (hub.home / "tagged/tables").iterdir()
    page, commit = table.read_text(), students["bench/good"]
    assert f"/bench/good/tree/{commit}" in page and f"/bench/good/blob/{commit}/runs/{RDED}/seed0.json" in page
    apart = (hub.home / "tagged/not-ranked.html").read_text()
    assert "top1 is 1.7" in apart and "5 MB, a Run has less" in apart and "no Runs in it" in apart
    assert "untagged" not in page and HOSTILE not in page


def test_named_repos_and_folders_go_together(hub, students):  # noqa: F811
    done = hub.script("rd3_utils", "leaderboard", "--hub-repos", f"bench/untagged@{students['bench/untagged']},bench/good",
                      "--results", selection(hub.home), "--out", "both")  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads((hub.home / "both/data/entries-000.json").read_text())
    mine = [row for row in rows if row["images"]["name"] == "rded-ipc10"]
    assert [(row["origin"]["name"], row["n"]) for row in mine] == [("measured", 3), ("bench/untagged", 1)]
    text = "".join(path.read_text() for path in (hub.home / "both/tables").iterdir())
    assert "also in bench/good" in text  # copies of the folder's Runs count once


def test_images_from_a_dataset_repo_are_recognised_by_its_distilled_json(hub):  # noqa: F811
    about = (MEASURED / "cifar10/rded-ipc10.json").read_text()
    commit = upload(hub, "bench/sets", {"rded-ipc10/distilled.json": about, "a/distilled.json": "[" * 9999}, "dataset")
    for name, sets in (("bench/learned", commit), ("bench/lost", "1" * 40)):
        run = json.loads((MEASURED / RDED / "seed0.json").read_text())
        run = changed(run, images__name="sets-rded-ipc10", images__source="bench/sets@v1:rded-ipc10", images__commit=sets)
        upload(hub, name, {"runs/a/seed0.json": json.dumps(run)})
        done = hub.script("rd3_utils", "leaderboard", "--hub-repos", name, "--out", name.replace("/", "-"))
        assert done.code == 0, done.err
    [row] = json.loads((hub.home / "bench-lost/data/entries-000.json").read_text())
    assert row["method"] is None  # that commit is not there
    [row] = json.loads((hub.home / "bench-learned/data/entries-000.json").read_text())
    assert row["method"] == "rded" and row["synthesis_seconds"] == 54.4


def test_a_named_repo_that_is_not_there_is_an_error(hub, students):  # noqa: F811
    done = hub.script("rd3_utils", "leaderboard", "--hub-repos", "bench/nothing", "--out", "none")
    assert done.code == 2 and "no model repo 'bench/nothing'" in done.err and not (hub.home / "none").exists()


def test_a_site_becomes_a_static_space_in_one_commit_and_again_in_none(hub):  # noqa: F811
    words = "rd3_utils", "leaderboard", "--results", MEASURED, "--out", "site", "--publish", "bench/board"
    done = hub.script(*words)
    assert done.code == 0, done.err
    assert re.search(r"pushed http\S+/spaces/bench/board at [0-9a-f]{40}", done.out)
    about = hub.ask("spaces/bench/board")
    assert about["cardData"]["sdk"] == "static" and about["cardData"]["app_file"] == "index.html"
    there = {entry["rfilename"] for entry in about["siblings"]} - {".gitattributes"}
    assert there == {p.relative_to(hub.home / "site").as_posix() for p in (hub.home / "site").rglob("*") if p.is_file()}
    assert hub.commits("bench/board", "spaces") == 1
    again = hub.script(*words)
    assert again.code == 0 and "nothing to push, all is there" in again.out and hub.commits("bench/board", "spaces") == 1


def test_pushing_again_takes_away_what_is_gone(hub):  # noqa: F811
    one = MEASURED / "cifar10/hard-label-v1-dd5df7a75b44"
    done = hub.script("rd3_utils", "leaderboard", "--results", MEASURED, "--out", "s1", "--publish", "bench/changing")
    assert done.code == 0, done.err
    done = hub.script("rd3_utils", "leaderboard", "--results", one, "--out", "s1", "--publish", "bench/changing")
    assert done.code == 0, done.err
    there = {entry["rfilename"] for entry in hub.ask("spaces/bench/changing")["siblings"]}
    assert hub.commits("bench/changing", "spaces") == 2 and not any("rd3-v1" in path for path in there)
    assert "protocols/hard-label-v1-dd5df7a75b44.html" in there


def test_a_lost_answer_makes_no_second_commit(hub):  # noqa: F811
    hub.fault(match="POST /api/spaces/bench/lost/commit", lose_answer=True)
    done = hub.script("rd3_utils", "leaderboard", "--results", MEASURED, "--out", "s2", "--publish", "bench/lost")
    assert done.code == 0, done.err
    assert hub.commits("bench/lost", "spaces") == 1


@pytest.mark.parametrize(
    "space, token, words",
    [
        ("bench/readonly", "hf_reader", "may only read"),
        ("carol/board", "hf_writer", "belongs to 'carol'"),
        ("bench/token", "", "needs a token"),
        ("no such name", "hf_writer", "cannot be the name of a repo"),
    ],
)
def test_permission_is_checked_before_anything_is_read(hub, space, token, words):  # noqa: F811
    done = hub.script("rd3_utils", "leaderboard", "--results", "nowhere", "--out", "s3", "--publish", space, token=token)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
    assert not (hub.home / "s3").exists()


def test_a_space_of_somebody_else_s_making_is_not_replaced(hub):  # noqa: F811
    upload(hub, "bench/thesis", {"README.md": "---\nsdk: static\n---\n", "thesis.html": "mine"}, "space")
    done = hub.script("rd3_utils", "leaderboard", "--results", MEASURED, "--out", "s4", "--publish", "bench/thesis")
    assert done.code == 2 and "holds something else already (thesis.html" in done.err
    assert hub.commits("bench/thesis", "spaces") == 1


def test_the_network_of_a_repo_is_scored_again_and_a_forged_run_of_it_stands_apart(hub, tmp_path):  # noqa: F811
    run = json.loads((TEACHER / "run.json").read_text())
    for repo, top1 in (("bench/honest", run["top1"]), ("bench/forged", 0.994)):
        folder = shutil.copytree(TEACHER, tmp_path / repo)
        (folder / "runs" / "a").mkdir(parents=True)
        for path in ("run.json", "runs/a/seed0.json"):
            (folder / path).write_text(json.dumps({**run, "top1": top1}))
        code = f"from huggingface_hub import HfApi as A; A().create_repo({repo!r}); "
        done = hub.python(code + f"A().upload_folder(repo_id={repo!r}, folder_path={str(folder)!r})")
        assert done.code == 0, done.err
    done = hub.script("rd3_utils", "leaderboard", "--hub-repos", "bench/honest,bench/forged", "--rescore", "--out", "again")
    assert done.code == 0 and done.out.startswith("1 entries of 1 Runs, 1 files not ranked"), done.out + done.err
    assert ">1 of 1</td>" in (hub.home / "again/index.html").read_text()
    apart = (hub.home / "again/not-ranked.html").read_text()
    assert "states top-1 99.40 %" in apart and "score top-1 99.00 %" in apart


FLIPPED = """
from huggingface_hub import HfApi
from rd3_utils.errors import UserError
from rd3_utils.learning import teachers
from rd3_utils.protocols import benchmark
HfApi().create_repo("bench/flipped")
HfApi().upload_folder(repo_id="bench/flipped", folder_path={folder!r})
try:
    teachers.load("hf-hub:bench/flipped", benchmark.load("digits"))
except UserError as error:
    print(error)
"""


def test_a_teacher_from_the_hub_has_the_weights_that_its_run_states(hub, tmp_path):  # noqa: F811
    folder = shutil.copytree(TEACHER, tmp_path / "flipped")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "weights": {"sha256": "0" * 64}}))
    done = hub.python(FLIPPED.format(folder=str(folder)))
    assert done.code == 0 and "its Run run.json states '000000000000'" in done.out, done.out + done.err
