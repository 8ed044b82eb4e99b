"""What forgeries are tried on: one small result of the digits, made once, and the three readers that shall notice.

`train`   a training that reads what was forged: stopped in one line, or not
`board`   a leaderboard of it: kept apart with a reason, or ranked
`verify`  `python -m rd3_utils verify`: contradicted, or not checkable, both with what is said
"""

import copy
import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, forge_shards, run_script

from rd3_utils import pushing
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.leaderboard import entries
from rd3_utils.learning import fitting, training
from rd3_utils.options import VerifyOptions
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.scoring.shapes import Refused
from rd3_utils.verification import checks, verifying
from rd3_utils.verification.checks import Verification

MEASURED = PROJECT / "measured/cifar10/rd3-v1-974086290837"
KNOBS = "training.epochs=20", "training.learning_rate=0.02", "training.batch_size=20"  # seconds, and students that have learned
READING, VERIFY, STATED, SILENCE = "reading", "verify", "stated", "silence"
BASE = ("train_student", "--draws", "1", "--seeds", "0,1", *(word for knob in KNOBS for word in ("--set", knob)))
COMMAND = *BASE, "--distilled", "digits-dm-ipc10", "--teacher", "default", "--arms", "distilled-soft,random-soft"


SHORT = "--protocol", "hard-label-v1", "--student", "convnet1", "--set", "training.epochs=1"


@dataclass(frozen=True)
class Answer:
    """How a forgery was noticed, and all that was said of it."""

    caught: str  # READING | VERIFY | STATED | SILENCE
    said: str


def changed(table, **fields):
    """A copy of `table` with {"a__b": value} set at table["a"]["b"]; a value that is None in `fields` is set as null."""
    table = copy.deepcopy(table)
    for key, value in fields.items():
        *parts, last = key.split("__")
        inner = table
        for part in parts:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        inner[int(last) if isinstance(inner, list) else last] = value
    return table


def read(path):
    return json.loads(Path(path).read_text())


def write(path, table):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(table))
    return path


def edit(path, **fields):
    """`changed`, in a file."""
    return write(path, changed(read(path), **fields))


def made_once(home):
    """Fill the folder `home` with labels and results (two seeds of two arms, with card), a pushed repo, and an image set."""
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc10", home / "my-set")

    def push(target, build, message):
        for path, content in build("0" * 40, {}).items():
            (home / "repo" / path).parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, bytes) else content.read_bytes()
            (home / "repo" / path).write_bytes(data)
        return pushing.Pushed("0" * 40, target.url, True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pushing, "may_push", lambda *_, **__: None)
        patch.setattr(pushing, "push", push)
        done = run_script(home, *COMMAND, "--push-to", "me/my-student")
    assert done.code == 0, done.err
    return home


class Workshop:
    """A place to forge in: parts of what was made once are copied into it when they are asked for."""

    def __init__(self, original, folder):
        self.original, self.folder = original, folder

    def part(self, name):
        """The copy of results, soft_labels, my-set or repo."""
        if not (self.folder / name).exists():
            shutil.copytree(self.original / name, self.folder / name)
        return self.folder / name

    @property
    def results(self):
        return self.part("results")

    @property
    def repo(self):
        return self.part("repo")

    @property
    def images(self):
        return self.part("my-set")

    @property
    def card(self):
        """The folder of the card."""
        return next(self.results.glob("digits/rd3-v1-*/digits-dm-ipc10@*"))

    @property
    def store(self):
        """The labels of the distilled images."""
        return next(self.part("soft_labels").glob("digits-dm-ipc10@*/*"))

    def arm(self, side="distilled"):
        """The folder of an arm's Runs."""
        return next(self.results.glob(f"digits/rd3-v1-*/*/convnet3/{side}-soft"))

    def save_set(self, change):
        """Write forged-set: the distilled images after change(images uint8 [N, 3, S, S], labels), their fingerprint renewed."""
        made = image_sets.read("digits-dm-ipc10", benchmarks.load("digits"))
        images, labels = made.images.clone(), made.labels.clone()
        images, labels = change(images, labels) or (images, labels)
        forged = image_sets.make("forged-set", images, labels, made.class_names, "here")
        image_sets.save(forged, self.folder / "forged-set")
        about = read(self.images / "distilled.json")
        write(self.folder / "forged-set/distilled.json", {**about, "fingerprint": forged.fingerprint})
        return self.folder / "forged-set"

    def once(self, name, make):
        """A copy of what make(another Workshop) leaves there, which is made once for all tests."""
        kept = self.original / name
        if not kept.exists():
            kept.mkdir()
            make(Workshop(self.original, kept))
        shutil.copytree(kept, self.folder, dirs_exist_ok=True)

    def stopped(self, change):
        """The training of seed 0, stopped after ten epochs; its checkpoint is written anew after `change(state)`."""
        self.once("stopped", stop_training)
        (path,) = self.folder.glob("results/**/*.checkpoint")
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    def run(self, seed=0, side="distilled"):
        """The path of a Run."""
        return self.arm(side) / f"seed{seed}.json"

    def released(self, images="rded-ipc10@f688766b", arm="distilled-soft", seeds=(0, 1, 2)):
        """The folder of copies of Runs of CIFAR-10 under rd3-v1 as it is released, which stand on every board."""
        for seed in seeds:
            to = self.folder / "released/cifar10" / MEASURED.name / images / "convnet3" / arm / f"seed{seed}.json"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(MEASURED / images / "convnet3" / arm / to.name, to)
        return to.parent

    # who shall notice

    def train(self, *more, environment=()):
        """The Answer of a training of one student under the same protocol, with what lies here."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in dict(environment).items():
                patch.setenv(name, value)
            done = run_script(self.folder, *BASE, "--seeds", "0", "--runs-only", *more)
        said = done.err if done.code else "\n".join(line for line in done.err.splitlines() if "epoch/s" not in line)
        assert "Traceback" not in said
        return Answer(READING, said) if done.code == 2 else Answer(SILENCE, done.out + said)

    def board(self, *folders):
        """The Answer of a leaderboard: files that are kept apart, with the reasons; else what its pages say of rows."""
        gathered = entries.gathered_entries(folders or [self.results])
        said = "\n".join(f"{one.path}: {one.reason}" for one in gathered.apart)
        return Answer(READING if gathered.apart else SILENCE, said)

    def pages(self, *folders):
        """The Answer of a leaderboard that ranks all of it: the text of its pages."""
        from rd3_utils.leaderboard import site

        gathered = entries.gathered_entries(folders or [self.results])
        assert not gathered.apart
        pages = [data.decode() for path, data in site.site_files(gathered).items() if path.endswith(".html")]
        plain = [re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL) for page in pages]
        return Answer(STATED, " ".join(html.unescape(" ".join(plain)).split()))

    def card_again(self):
        """The Answer of the same command, which writes the card anew from the Runs that are there."""
        self.part("soft_labels")
        done = run_script(self.folder, *COMMAND)
        said = "\n".join(line for line in done.err.splitlines() if "run/s" not in line)
        return Answer(READING, said) if done.code == 2 or "left out" in said else Answer(SILENCE, done.out + said)

    def verification(self, source, **options) -> Verification:
        """The Verification of a source here."""
        return verifying.verify(VerifyOptions(str(source), **options))

    def noticed(self, folder):
        """Whether an image set is refused, or contradicted."""
        try:
            return bool(self.verification(folder).count("contradicted"))
        except UserError:
            return True

    def verify(self, source, **options):
        """The Answer of `verify`: what is contradicted; else what is not checkable, which is no confirmation."""
        made = self.verification(source, **options)
        kind, outcome = (VERIFY, "contradicted") if made.count("contradicted") else (STATED, "not checkable")
        assert made.exit_code(strict=True) == (checks.CONTRADICTED if kind == VERIFY else checks.NO_SCORE)
        lines = [f"{one.place}: {one.claim}: {one.how}: {one.why}" for one in made.checks if one.outcome == outcome]
        return Answer(kind, "\n".join([*lines, *(f"Not read: {name}" for name in made.not_read)]))


def stop_training(shop):
    """Leave the checkpoint of the tenth epoch."""

    def stop(mean, epoch, whose):
        if epoch == 10:
            raise UserError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "CHECKPOINT_SECONDS", -1)
        patch.setattr(training, "check_loss_value", stop)
        shop.part("soft_labels")
        assert shop.train("--distilled", "digits-dm-ipc10").said.endswith("stopped\n")


# --- how files are forged


def run_board(**fields):
    """A forger that changes a Run with the network beside it and shows it to a board."""

    def forge(shop):
        edit(shop.run(), **fields)
        return shop.board()

    return forge


def run_verified(side="distilled", seed=0, **fields):
    """A forger that changes a Run and lets the folder of results be verified."""

    def forge(shop):
        edit(shop.run(seed, side), **fields)
        return shop.verify(shop.results)

    return forge


def run_alone(side="distilled", seed=0, **fields):
    """A forger that changes a Run and lets that file be verified, without the card above it."""

    def forge(shop):
        edit(shop.run(seed, side), **fields)
        return shop.verify(shop.run(seed, side))

    return forge


def released_board(change, **options):
    """A forger that changes seed 0 of three Runs of CIFAR-10 under the released rd3-v1 and shows them to a board."""

    def forge(shop):
        folder = shop.released(**options)
        write(folder / "seed0.json", change(read(folder / "seed0.json")))
        return shop.board(shop.folder / "released")

    return forge


def logits(change):
    """change(logits) for `forge_shards`."""
    return lambda tensors, first: tensors.update({"logits": change(tensors["logits"])})


def store_trained(change=None, **fields):
    """A forger that changes the label store and its index, and trains on it."""

    def forge(shop):
        if change:
            forge_shards(shop.store, change)
        edit(shop.store / "index.json", **fields)
        return shop.train("--distilled", "digits-dm-ipc10", "--soft-labels", shop.store)

    return forge


def store_verified(change=None, **fields):
    """A forger that changes the label store and its index, and lets it be verified with the teacher at hand."""

    def forge(shop):
        if change:
            forge_shards(shop.store, change)
        edit(shop.store / "index.json", **fields)
        return shop.verify(shop.store, check_labels=2)

    return forge


def trained(*words, **environment):
    """A forger that does nothing but train otherwise."""
    return lambda shop: shop.train(*words, environment=environment)


def set_trained(change):
    """A forger of an image set, on which a student is then trained."""

    def forge(shop):
        shop.save_set(change)
        done = shop.train(*SHORT, "--distilled", "forged-set")
        return done if done.caught == READING else Answer(STATED, done.said)  # what is said before it is trained

    return forge


def refused(function):
    """The Answer of a call that raises what a person would read."""
    try:
        function()
    except (UserError, Refused) as error:
        return Answer(READING, str(error))
    return Answer(SILENCE, "")


def board_of(shop, path, **fields):
    """The Answer of a board that reads the Run at `path`, changed."""
    edit(path, **fields)
    return shop.board()
