"""Files changed at random: none ends in a traceback or hangs, and none that is read gives another score in silence.

Every case is one number: `case(shop, kind, number)` makes it again. What is changed is structured: leaves of JSON and TOML,
keys, bytes of tensors that are signed again, parts of a checkpoint.
"""

import contextlib
import copy
import json
import random
import signal

import pytest
import torch
from forging import Workshop

from rd3_utils.data import images as image_sets
from rd3_utils.data import label_store, provenance, soft_labels
from rd3_utils.errors import UserError
from rd3_utils.learning import students, teachers, training
from rd3_utils.options import VerifyOptions
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.scoring import runs
from rd3_utils.scoring.shapes import Refused
from rd3_utils.verification import card_claims, evidence, run_claims, table, verifying, vetting
from rd3_utils.verification.at_hand import AtHand

SECONDS = 10  # of one case
REFUSALS = UserError, Refused
DEEP: list = []
for _ in range(40):
    DEEP = [DEEP]
HOSTILE = [None, True, False, 0, -1, 1, 7, 2**31, 10**30, 1e308, -1e-308, 0.5, "", "x", "x" * 5000, "\0", "../../x", "NaN",
           "0" * 64, [], {}, [[]], DEEP, {"": ""}, [None], ["x"] * 2000, "\u202e", "\ud800"]  # fmt: skip


class Hangs(BaseException):
    """Nothing catches it but the test."""


@contextlib.contextmanager
def time_limit():
    """A context that ends with Hangs after SECONDS."""

    def stop(number, frame):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- what is changed


def places(table, path=()):
    """Every (container, key) in nested tables and lists."""
    for key, value in list(table.items()) if isinstance(table, dict) else list(enumerate(table)):
        yield table, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def changed_table(table, chance):
    """A copy of nested plain data with one to three changes."""
    table = copy.deepcopy(table)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        where, key = chance.choice(list(places(table)) or [(table, None)])
        if key is None:
            return chance.choice(HOSTILE)
        what_happens = chance.randrange(6)
        if what_happens == 0:
            del where[key]
        elif what_happens == 1 and isinstance(where, dict):
            where[f"{key}x"] = where.pop(key)
        elif what_happens == 2 and isinstance(where, list):
            where.append(copy.deepcopy(where[key]))
        elif what_happens == 3 and isinstance(where[key], (int, float)):
            where[key] = where[key] + chance.choice((-1, 1, 0.5, 1e-9))
        elif what_happens == 4:
            other, another = chance.choice(list(places(table)))
            where[key] = copy.deepcopy(other[another])
        else:
            where[key] = copy.deepcopy(chance.choice(HOSTILE))
    return table


def changed_json(data, chance):
    """The bytes of a JSON file, changed in its tree or in its text."""
    if chance.random() < 0.75:
        return json.dumps(changed_table(json.loads(data), chance)).encode()
    text = data.decode()
    at = chance.choice([place for place, letter in enumerate(text) if letter in '{[,:"'])
    raw = chance.choice(('"schema": 3, ', "NaN", "Infinity", "1e999", "9" * 5000, "[" * 3000, "\ufeff", "\0", "]", '"\\ud800"'))
    return chance.choice((text[:at], text[: at + 1] + raw + text[at + 1 :], text + text)).encode()


def changed_bytes(data, chance):
    """Bytes with some others, some fewer or some more."""
    data, at = bytearray(data), chance.randrange(len(data))
    match chance.randrange(4):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            del data[at:]
        case 2:
            data[at : at + 8] = chance.randbytes(8)
        case _:
            data[min(at, 400) :] = data[at:]
    return bytes(data)


def changed_toml(text, chance):
    """The text of a TOML file with a line more, less, or of another value."""
    lines = text.splitlines()
    at = chance.randrange(len(lines))
    key = lines[at].partition("=")[0] or "x"
    values = (
        "1e400",
        "nan",
        "-1",
        "9" * 5000,
        "[" * 3000,
        "''",
        "true",
        "[]",
        "{}",
        "1979-05-27",
        "'x'",
        "9000000000",
        "0.5",
    )
    new = [[], [lines[at]] * 2, [f"{key}= {chance.choice(values)}"], ["\0"], [chance.choice(lines)]]
    return "\n".join([*lines[:at], *chance.choice(new), *lines[at + 1 :]])


# --- what reads it: a reader gets the shop and the chance, and asserts that nothing else came of it than before


def index(shop, chance):
    """index.json of a store: what is read is what was read."""
    path, (images, recipe, known) = shop.store / "index.json", shop.known
    whole = path.read_bytes()
    path.write_bytes(changed_json(whole, chance))
    with restored(path, whole):
        store = label_store.load_store(shop.store, images, recipe, 0)
        for epoch, (order, logits) in known.items():
            views, read = store.epoch(epoch)
            assert torch.equal(views.order, order) and torch.equal(read, logits)
        json.dumps([store.describe(), store.origin, store.teachers])


def shard(shop, chance):
    """A shard, signed again: the views stay those of the recipe, labels are finite; what they are, verify tells."""
    path, (images, recipe, known) = shop.store / "index.json", shop.known
    table = json.loads(path.read_bytes())
    entry = chance.choice(table["shards"])
    file = shop.store / entry["file"]
    whole, signed = file.read_bytes(), path.read_bytes()
    file.write_bytes(changed_bytes(whole, chance))
    entry |= {"bytes": file.stat().st_size, "sha256": soft_labels.file_sha256(file)}
    path.write_text(json.dumps(table))
    with restored(path, signed), restored(file, whole):
        store = label_store.load_store(shop.store, images, recipe, 0)
        for epoch, (order, _) in known.items():
            views, logits = store.epoch(epoch)
            assert torch.equal(views.order, order) and bool(torch.isfinite(logits).all())


def run(shop, chance):
    """A Run: the board vets it, verify makes Checks of it; one that passes states what its file states."""
    path = shop.run()
    whole = path.read_bytes()
    path.write_bytes(data := changed_json(whole, chance))
    with restored(path, whole):
        (file,) = (one for one in evidence.of_path(evidence.Source("path", str(path)), path).runs)
        list(run_claims.of_run(file, shop.at_hand))
        read = runs.read(path)
        assert read.top1 == json.loads(data)["top1"] and runs.kept(path)
        vetted, _ = vetting.vetted(data)
        assert vetted.top1 == read.top1 and vetted.recipe == json.loads(whole)["recipe"]


def card(shop, chance):
    """A card, its report and its Runs' folder: verify makes Checks of it."""
    path = chance.choice([file for file in shop.card.iterdir() if file.suffix in (".md", ".json")])
    whole = path.read_bytes()
    path.write_bytes((changed_json if path.suffix == ".json" else changed_bytes)(whole, chance))
    with restored(path, whole):
        for one in evidence.gathered_evidence(evidence.Source("path", str(shop.card))).cards:
            list(card_claims.of_card(one))


def images(shop, chance):
    """An image set's distilled.json or its parquet: it has its fingerprint, or another one."""
    path = chance.choice(sorted(shop.images.iterdir()))
    whole = path.read_bytes()
    path.write_bytes((changed_json if path.suffix == ".json" else changed_bytes)(whole, chance))
    with restored(path, whole):
        if path.suffix == ".json":
            assert isinstance(provenance.read(path, "it"), dict) and vetting.made_by(path.read_bytes())
        read = image_sets.read(str(shop.images), shop.digits)
        again = image_sets.make("again", read.images, read.labels, read.class_names, "again")
        assert read.fingerprint == again.fingerprint


def protocol(shop, chance):
    """A protocol: one digest, one set of knobs."""
    name = chance.choice(protocols.names())
    path = shop.folder / f"{name}.toml"
    path.write_text(changed_toml((protocols.RELEASED / path.name).read_text(), chance))
    read = protocols.load(path)
    assert read.digest == protocols.load(name).digest and read.knobs == protocols.load(name).knobs
    read.resolve(shop.digits, "convnet3", 1, 10, "soft" if "soft" in read.arms else "hard")


def benchmark(shop, chance):
    """A benchmark: numbers are numbers."""
    name = chance.choice(benchmarks.names())
    path = shop.folder / f"{name}.toml"
    path.write_text(changed_toml((benchmarks.BENCHMARKS / path.name).read_text(), chance))
    read = benchmarks.read(path)
    assert all(0 < one < 100 for one in read.image.std) and 0 < read.image.size < 10_000
    protocols.load("rd3-v1").resolve(read, "resnet18", 1, len(read.classes), "soft")


def network(shop, chance):
    """config.json or weights of a student: another network is another SHA-256."""
    folder = shop.run().with_suffix("")
    path = folder / chance.choice(("config.json", "model.safetensors"))
    whole = path.read_bytes()
    path.write_bytes((changed_json if path.suffix == ".json" else changed_bytes)(whole, chance))
    with restored(path, whole):
        read = teachers.load(f"local-dir:{folder}", shop.digits)
        assert read.sha256 == teachers.weights_sha256(read.network)


def checkpoint(shop, chance):
    """A checkpoint: what it restores is a network of numbers and a history of its epochs."""
    path, learner = shop.folder / "x.checkpoint", shop.learner()
    history = [{"epoch": epoch, "loss": 1.0, "learning_rate": 0.1} for epoch in range(3)]
    training.save_checkpoint(path, learner, {"kind": "soft"}, 3, 1.0, history)
    if chance.random() < 0.5:
        path.write_bytes(changed_bytes(path.read_bytes(), chance))
    else:
        torch.save(changed_table(torch.load(path, weights_only=True), chance), path)
    epochs, seconds, read = training.load_checkpoint(path, learner, {"kind": "soft"})
    assert len(read) == epochs and 0 <= seconds and learner.holds_numbers


def verified(shop, chance):
    """Any file of a label store, an image set or a student: verify ends with a table, and a changed score is contradicted."""
    run = shop.run()
    source = chance.choice((shop.store, shop.images, run))
    inside = [run, *run.with_suffix("").iterdir()] if source == run else sorted(source.iterdir())
    path = chance.choice([file for file in inside if file.suffix in (".json", ".parquet", ".safetensors")])
    whole, stated = path.read_bytes(), json.loads(run.read_bytes())
    if path == run and chance.random() < 0.5:  # a score that could be
        path.write_text(json.dumps({**stated, "top1": chance.randrange(100, 500) / 500}))
    else:
        path.write_bytes((changed_json if path.suffix == ".json" else changed_bytes)(whole, chance))
    with restored(path, whole):
        verification = verifying.verify(VerifyOptions(str(source)))
        assert json.loads(verification.as_json())["checks"] and table.text(verification)
        if path == run:
            read = evidence.run_file(run, "run").run
            if read is None or (read.top1, read.top5) != (stated["top1"], stated["top5"]):
                assert verification.exit_code() == 1


KINDS = {kind.__name__: kind for kind in (index, shard, run, card, images, protocol, benchmark, network, checkpoint, verified)}


@contextlib.contextmanager
def restored(path, whole):
    """A context after which the file at `path` holds the bytes `whole` again."""
    try:
        yield
    finally:
        path.write_bytes(whole)


class FuzzShop(Workshop):
    """A workshop that also knows what an honest store says."""

    def __init__(self, original, folder, digits):
        super().__init__(original, folder)
        self.digits, self.at_hand = digits, AtHand(VerifyOptions(str(folder)))
        stated = runs.read(self.run())
        images = image_sets.read(str(self.images), digits)
        changes = [f"{key}={json.dumps(value)}" for key, value in stated.protocol.overrides.items()]
        recipe = protocols.load("rd3-v1").override(changes).resolve(digits, "convnet3", images.nominal_ipc, len(images), "soft")
        store = label_store.load_store(self.store, images, recipe, 0)
        known = {epoch: (views.order, logits) for epoch in (0, 7, 19) for views, logits in [store.epoch(epoch)]}
        self.known, self.recipe = (images, recipe, known), recipe

    def learner(self):
        network = students.create("convnet1", self.digits, 0)
        return training.Learner(network, network, training.optimizer(self.recipe, network), None, None)


@pytest.fixture(scope="module")
def shop(original, tmp_path_factory, digits):
    return FuzzShop(original, tmp_path_factory.mktemp("fuzz"), digits)


def case(shop, kind, number):
    """Whether the file that this number makes is read; AssertionError with the number for anything but a refusal."""
    try:
        with time_limit():
            KINDS[kind](shop, random.Random(f"{kind} {number}"))
        return True
    except REFUSALS as error:
        assert len(str(error)) < 3000, (kind, number, str(error)[:300])
        return False
    except (Exception, Hangs) as error:
        raise AssertionError(f"case(shop, {kind!r}, {number}): {type(error).__name__}: {str(error)[:300]}") from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_or_says_what_it_is(shop, kind, capsys):
    count = {"images": 12, "network": 15, "checkpoint": 20, "shard": 25, "verified": 12}.get(kind, 26)
    read = [case(shop, kind, number) for number in range(count)]
    assert kind in ("card", "verified") or not all(read)  # of these, there are Checks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_changed_files_are_refused_or_say_what_they_are(shop, kind, capsys):
    read = [case(shop, kind, number) for number in range(100, 325)]
    assert kind in ("card", "verified") or not all(read)
