"""What users see is as before: digests, views, labels, Runs, the leaderboard's data, and the words of commands and errors.

tests/data/as_before.json holds what was seen. Where a change is meant, write it anew and read the difference:

    python tests/test_as_before.py

Words are compared by what they say: the exit code, the options and the numbers in them, not every comma.
"""

import difflib
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from conftest import PROJECT, run_script

from rd3_utils.data import embedded, selections, tables, views
from rd3_utils.data import images as image_sets
from rd3_utils.protocols import benchmark, protocol
from rd3_utils.scoring.results import Results

SEEN = Path(__file__).parent / "data" / "as_before.json"
MEASURED = PROJECT / "measured"
COMMANDS = """
train_student --help
generate_soft_labels --help
rd3_utils --help
rd3_utils list
rd3_utils synthesize --help
rd3_utils synthesize dm --help
rd3_utils synthesize rded --help
rd3_utils synthesize sre2l --help
rd3_utils synthesize cda --help
rd3_utils convert --help
rd3_utils publish --help
rd3_utils study --help
rd3_utils transfer --help
rd3_utils leaderboard --help
rd3_utils score --help
rd3_utils score compare --help
rd3_utils score lrs --full-hard 0.85 --distilled-hard 0.45 --distilled-soft 0.60 --random-soft 0.55
rd3_utils score ars --distilled-aug 0.5 --random-aug 0.4 --distilled-plain 0.3 --random-plain 0.2 --as-coded
rd3_utils score compare RDED RANDOM
rd3_utils score compare RDED nothing-here
rd3_utils score lrs --full-hard 85 --distilled-hard 0.45 --random-hard 0.4
train_student --dry-run --arms all --seeds 0,1 --teacher default
train_student --dry-run --protocol hard-label-v1 --arms distilled-hard,random-hard
train_student --dry-run --protocol rded-v2 --student resnet18 --views-seed each --seeds 0,1 --teacher default
train_student --dry-run --distilled random:ipc=10,seed=3 --set training.epochs=7 --set views.mix=none --teacher default
train_student --dry-run --protocol dm-v1 --distilled digits-dm-ipc10
generate_soft_labels --dry-run
generate_soft_labels --dry-run --protocol sre2l-v1 --distilled random:ipc=2,seed=0 --label-dtype u8 --shard-mb 1
rd3_utils study STUDIES/digits-smoke.toml --dry-run
rd3_utils study STUDIES/digits-smoke.toml --report-only
rd3_utils study nothing.toml
train_student --protocol rd3-v9
train_student --benchmark digit
train_student --student resnet19
train_student --arms distilled-sofd
train_student --set training.epoch=3
train_student --set training.epochs=many
train_student --set views.mix=cutmax
train_student --distilled random:ipc=0,seed=0
train_student --distilled random:seed=0
train_student --distilled ./nothing
train_student --seeds 0,x
train_student --protocol rd3-v1
train_student --private
train_student --runs-only --push-to someone/something
train_student --protocol hard-label-v1 --arms distilled-soft
train_student --full-hard cited --arms lrs --teacher default
generate_soft_labels --protocol hard-label-v1
generate_soft_labels --teacher nothing
rd3_utils synthesize rded --out x
rd3_utils synthesize sre2l --ipc 1 --out x --init full
rd3_utils convert nothing.pt out --benchmark digits
rd3_utils publish digits-dm-ipc1 bad..name
rd3_utils transfer nothing --to digits
rd3_utils transfer nothing --to digit
rd3_utils leaderboard --out site
rd3_utils leaderboard --results nothing --out site
""".strip().splitlines()
PLACES = {
    "RDED": "cifar10/hard-label-v1-*/rded-ipc1@*/convnet3/distilled-hard",
    "RANDOM": "cifar10/hard-label-v1-*/random-ipc1-*/convnet3/random-hard",
}


def words_of(command):
    name, *words = command.split()
    places = {**{key: str(MEASURED / where) for key, where in PLACES.items()}, "MEASURED": str(MEASURED)}
    return name, [places.get(word, word).replace("STUDIES", str(PROJECT / "studies")) for word in words]


def said(command, folder):
    """{"code", "options", "numbers", "error"} of a command run in this process, in `folder`."""
    name, words = words_of(command)
    done = run_script(folder, name, *words)
    text = re.sub(
        r"\S*/\S*(tmp|measured|studies)\S*|\b[\d.]+ (seconds|s|min|h|GB free)\b|\r.*", " ", done.out + "\n" + done.err
    )
    text = re.sub(r"-\n\s+", "-", text)  # a word that the width of the terminal broke
    options = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)))
    numbers = re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e-?\d+)?", text)
    error = re.sub(r"\S*/\S*", "PATH", done.err.partition("error: ")[2])
    return {"code": done.code, "options": " ".join(options), "numbers": " ".join(sorted(numbers)), "error": error}


def of_protocols():
    """{name: digest, and of the views of two epochs of digits} of every released protocol."""
    digits = benchmark.load("digits")
    found = {}
    for name in protocol.names():
        one = protocol.load(name)
        recipe = one.resolve(digits, "convnet3", 10, 100, one.main_labels)
        bits = hashlib.sha256()
        for epoch in (0, 1):
            drawn = views.draw(recipe, 0, epoch)
            for key in sorted(vars(drawn)):
                value = getattr(drawn, key)
                if hasattr(value, "numpy"):
                    bits.update(key.encode() + value.numpy().tobytes())
        found[name] = [one.digest, bits.hexdigest()]
    return found


def of_images():
    digits = benchmark.load("digits")
    table = tables.real(digits, "train")
    sources = [*embedded.image_sets(), "random:ipc=10,seed=1", "full"]
    found = {source: selections.image_set(source, digits, lambda: table).fingerprint for source in sources}
    return {**found, "test": image_sets.test_split(digits).fingerprint}


def of_board(folder):
    """The tables of the leaderboard of `measured`, as pages read them."""
    done = run_script(folder, "rd3_utils", "leaderboard", "--results", str(MEASURED), "--out", "site")
    assert done.code == 0, done.err
    files = sorted((folder / "site").rglob("*.json"))
    return {str(file.relative_to(folder / "site")): json.loads(file.read_text()) for file in files}


def of_entries(folder):
    """{identity of an entry: its numbers} of the leaderboard of `measured`."""
    entries = of_board(folder)["data/entries-000.json"]
    told = {}
    for entry in entries:
        names = [entry[key] for key in ("benchmark", "ipc", "student", "precision", "arm")]
        name = " ".join(map(str, [*names, entry["protocol"]["name"], *entry["images"]["fingerprints"]]))
        told[name] = [entry["mean"], entry["std"], entry["n"], entry["rank"], sorted(entry["scores"]), entry["bytes"]]
    return told


def of_runs():
    """[how many, a digest of what identifies each and its score] of the Runs of `measured`."""
    found = {}
    for name in sorted(path.name for path in MEASURED.iterdir() if path.is_dir() and path.name != "study"):
        runs, left_out = Results(MEASURED).runs_of(name)
        assert not left_out, left_out
        told = [(r.protocol.digest, r.images.fingerprint, r.arm, r.seed, r.top1, r.top5) for _, r in runs]
        found[name] = [len(told), hashlib.sha256(json.dumps(told).encode()).hexdigest()]
    return found


def of_students(folder):
    """Top-1 of two short students of the digits, and what the teacher makes of the images: floats, near on every CPU."""
    short = "--set", "training.epochs=5"
    for words in (("--teacher", "default"), ("--protocol", "hard-label-v1", "--arms", "distilled-hard")):
        done = run_script(folder, "train_student", "--runs-only", *words, *short)
        assert done.code in (0, None), done.err
    runs, _ = Results(folder / "results").runs_of("digits")
    return {run.arm: [run.top1, run.history[-1]["loss"]] for _, run in runs}


def empty(folder):
    folder.mkdir()
    return folder


def all_seen(folder):
    return {
        "protocols": of_protocols(),
        "images": of_images(),
        "runs": of_runs(),
        "entries": of_entries(folder),
        "students": of_students(folder),
        "commands": {command: said(command, empty(folder / str(k))) for k, command in enumerate(COMMANDS)},
    }


@pytest.fixture(scope="module")
def before():
    return json.loads(SEEN.read_text())


def test_every_released_protocol_has_its_digest_and_draws_the_same_views(before):
    assert of_protocols() == before["protocols"]


def test_embedded_and_drawn_images_have_their_fingerprints(before):
    assert of_images() == before["images"]


def test_every_committed_run_is_read_as_it_was(before):
    assert of_runs() == before["runs"]


def test_the_leaderboard_of_the_committed_runs_says_the_same(before, tmp_path):
    found = json.loads(json.dumps(of_entries(tmp_path)))
    assert found.keys() == before["entries"].keys()
    for name, values in found.items():
        assert values == before["entries"][name], name


def test_short_students_score_what_they_did(before, tmp_path):
    for arm, (top1, loss) in of_students(tmp_path).items():
        assert [top1, loss] == pytest.approx(before["students"][arm], rel=0.02, abs=0.004), arm


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_did(before, tmp_path, command):
    now, then = said(command, tmp_path), before["commands"][command]
    text, former = now.pop("error"), then.pop("error")
    assert now == then
    assert difflib.SequenceMatcher(None, text.split(), former.split()).ratio() > 0.5, text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        SEEN.write_text(json.dumps(all_seen(Path(folder)), indent=1) + "\n")
