"""Forgeries: ways to cheat a score by editing files, each tried: caught by reading, by `verify`, or shown as stated.

FORGERIES is the table, and docs/forgeries.md is made of it (docs/render_forgeries.py): what somebody does, how it is noticed,
and words of what is said. None may pass in silence: where no reader stops and nothing is contradicted, `verify` or a page
says that it could not check what was forged.
"""

import importlib.util
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import test_label_checks as stores
import test_leaderboard
import torch
from conftest import PROJECT, forge_shards
from forging import (
    READING,
    SHORT,
    SILENCE,
    STATED,
    VERIFY,
    Answer,
    Workshop,
    board_of,
    changed,
    edit,
    logits,
    read,
    refused,
    released_board,
    run_alone,
    run_board,
    run_verified,
    set_trained,
    store_trained,
    store_verified,
    write,
)  # fmt: skip
from safetensors.torch import load_file, save_file

from rd3_utils import launch
from rd3_utils.data import decoded, tables
from rd3_utils.data import images as image_sets
from rd3_utils.data.embedded import EMBEDDED
from rd3_utils.learning import students, weights
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.recipe import digest
from rd3_utils.transfer import records
from rd3_utils.verification import as_trained, vetting


@dataclass(frozen=True)
class Forgery:
    """One way to cheat: `text` says what somebody does, `by` does it and gives the Answer, `words` are in what is said."""

    kind: str
    text: str
    caught: str  # READING | VERIFY | STATED
    words: str
    by: Callable[[Workshop], Answer]
    slow: bool = False


def forgeries(kind, *rows):
    return [Forgery(kind, *row) for row in rows]


# --- label stores


def one_hot(tensors, first):
    return {**tensors, "logits": torch.nn.functional.one_hot(tensors["logits"].argmax(-1), 10).half() * 20}


def noise(t):
    return t + 0.5 * torch.randn(t.shape, generator=torch.Generator().manual_seed(0)).half()


def first_epoch_mixed_up(tensors, first):
    if first == 0:
        tensors["logits"][0] = tensors["logits"][0].flip(0)


def flipped(shop):
    path = next(shop.store.glob("labels-00000*"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    return shop.train("--distilled", "digits-dm-ipc10", "--soft-labels", shop.store)


def without_last_shard(shop):
    return store_trained(shards=read(shop.store / "index.json")["shards"][:-1])(shop)


def of_other_images(shop):
    """The store of random images, which names the distilled ones."""
    mine, other = shop.store, next(shop.part("soft_labels").glob("random-*/*"))
    edit(other / "index.json", images=read(mine / "index.json")["images"])
    return shop.verify(other, check_labels=2)


STORES = forgeries(
    "Label stores",
    ("repeats every row five times in the `order` of a store, so that a student sees the easy ones more often", READING,
     "'order' of row", store_trained(lambda t, first: t.update({"order": (t["order"].long() // 5).to(torch.uint32)}))),
    ("takes CutMix out of the stored views, so that every view shows one whole image", READING,
     "'mix_box' of row", store_trained(lambda t, first: t.update({"mix_box": t["mix_box"] * 0}))),
    ("rolls the labels of a rival's set, or of random images, by one class", READING,
     "recognise 98 % of the images, but only", store_trained(logits(lambda t: t.roll(1, 2)))),
    ("names other images in the index", READING, "are for images", store_trained(images__fingerprint="0" * 64)),
    ("names the classes in another order", READING, "are for classes", store_trained(class_names=list("1023456789"))),
    ("says another seed of the views", READING, "are for views seed 1", store_trained(views_seed=1)),
    ("says another digest of the views", READING, "are for views", store_trained(views_digest="0" * 12)),
    ("edits a knob of the views in the index and leaves their digest", READING, "are for views",
     store_trained(views__crop="none")),
    ("lets an entry of a shard lead out of the folder", READING, "is damaged (a shard named",
     store_trained(shards__0__file="../../labels-00000-of-00007.safetensors")),
    ("leaves the last shard out of the index", READING, "is damaged (18 of 20 epochs)", without_last_shard),
    ("says fewer epochs than the recipe reads, so that the first ones come again", READING, "the recipe needs 20",
     store_trained(epochs=18)),
    ("says fewer bytes, so that the labels look cheaper", READING, "bytes, index.json says 7",
     store_trained(shards__0__bytes=7)),
    ("changes a shard and leaves its SHA-256", READING, "the file is damaged", flipped),
    ("gives the labels of random images for those of the distilled ones, with their names in the index", VERIFY,
     "these are not the labels of these teachers", of_other_images),
    ("sharpens all labels, as another temperature would", VERIFY, "these are not the labels of these teachers",
     store_verified(logits(lambda t: t * 2))),
    ("keeps of every label its likeliest class alone", VERIFY, "these are not the labels of these teachers",
     store_verified(one_hot)),
    ("adds a little noise to all labels, as another teacher would", VERIFY, "these are not the labels of these teachers",
     store_verified(logits(noise))),
    ("replaces the labels of one epoch", VERIFY, "these are not the labels of these teachers",
     store_verified(first_epoch_mixed_up)),
    ("says a higher top-1 of the teacher", VERIFY, "scored on the test split: 99.00 %", store_verified(teachers__0__top1=1.0)),
    ("says that the teacher recognises more of the images", VERIFY, "shown to them again: 98.00 %",
     store_verified(recognised=1.0)),
    ("names the weights of another teacher", VERIFY, "of weights 00000000", store_verified(teachers__0__sha256="0" * 64)),
    ("labels with a teacher that nobody else has, one that learned the test images, say", STATED, "give it with --teacher",
     store_verified(teachers__0__source="local-dir:mine/teacher")),
)  # fmt: skip


# --- Runs


def schema_1(run):
    """A Run as it was before November 2026: it says less."""
    older = {key: value for key, value in run.items() if key not in ("network", "views")}
    older["images"] = {key: value for key, value in run["images"].items() if key not in ("checks", "train")}
    return {**older, "schema": 1}


def with_other_knobs(run):
    """The knobs of a longer training, with their own true digest, under the released name."""
    run = changed(run, protocol__knobs__training__epochs=800)
    return changed(run, protocol__digest=digest(run["protocol"]["knobs"]))


def seed_copied(shop):
    best, worst = sorted((shop.run(0), shop.run(1)), key=lambda path: -read(path)["top1"])
    write(worst, {**read(best), "seed": read(worst)["seed"]})
    return shop.verify(shop.results)


def renamed(shop):
    shutil.copy(shop.run(1), shop.run(1).with_name("seed2.json"))
    return shop.card_again()


def two_of_one_seed(shop):
    write(shop.run(1).parent / "better/seed1.json", {**read(shop.run(1)), "top1": 0.9, "top5": 1.0})
    return shop.board()


def linked(shop):
    (shop.run(0).with_name("seed5.json")).symlink_to(shop.run(0))
    return shop.board()


def twice(shop):
    shop.run(0).write_text(shop.run(0).read_text().rstrip().removesuffix("}") + ', "top1": 0.9}')
    return shop.board()


def chosen_seeds(shop):
    """Ten seeds were trained, and the best three were kept."""
    folder = shop.released(seeds=(0, 1, 2))
    for seed, new in ((0, 3), (1, 7), (2, 9)):
        write(folder / f"seed{new}.json", {**read(folder / f"seed{seed}.json"), "seed": new})
        (folder / f"seed{seed}.json").unlink()
    return shop.pages(shop.folder / "released")


def chosen_draws(shop):
    """The worst draw of random images is kept for the comparison."""
    shop.released()
    shop.released("random-ipc10-seed2@71abd6a5", "random-soft", seeds=(0,))
    return shop.pages(shop.folder / "released")


def longer_history(shop):
    entries = read(shop.run())["history"] * 2
    return run_board(history=[{**entry, "epoch": i} for i, entry in enumerate(entries)])(shop)


def cut_history(shop):
    return run_board(history=read(shop.run())["history"][:15])(shop)


def watched(shop):
    return run_board(history=[{**entry, "test_top1": 0.5} for entry in read(shop.run())["history"]])(shop)


def precision_renamed(shop):
    edit(shop.run(), environment__precision="bf16")
    return shop.card_again()


def other_random_images(shop):
    """Random images of draw 1, which are worse, under the name of draw 0."""
    shop.released("random-ipc10-seed0@06e8bbc6", "random-soft", seeds=(0,))
    false = shop.folder / "theirs/seed1.json"
    write(false, changed(read(next(shop.folder.glob("released/**/seed0.json"))), seed=1, images__fingerprint="0" * 64))
    return shop.board(shop.folder / "released", shop.folder / "theirs")


def other_split(shop):
    shop.released()
    false = changed(read(next(shop.folder.glob("released/**/seed0.json"))), seed=5, test__fingerprint="0" * 64)
    write(shop.folder / "theirs/seed5.json", false)
    return shop.board(shop.folder / "released", shop.folder / "theirs")


def older(shop):
    write(shop.run(), schema_1(read(shop.run())))
    return shop.verify(shop.run())


GRID = "--set", "training.learning_rates=[0.01, 0.0001]", "--set", "training.batch_size=10", "--set", "training.epochs=2"
SEARCH = "--protocol", "hard-label-v1", "--distilled", "digits-dm-ipc1", "--student", "convnet1", *GRID


def searched(shop):
    """(path, learning-rate search) of a Run that searched one."""
    shop.once("searched", lambda one: one.train(*SEARCH))
    path = next(shop.folder.glob("results/**/seed0.json"))
    return path, read(path)["learning_rate_search"]


def searched_otherwise(shop):
    path, search = searched(shop)
    rates = {one["learning_rate"] for one in search["candidates"]} - {search["learning_rate"]}
    edit(path, learning_rate_search__learning_rate=rates.pop())
    return shop.board(shop.folder / "results")


def searched_on_test(shop):
    path, search = searched(shop)
    edit(path, learning_rate_search__images__fingerprint=read(path)["test"]["fingerprint"])
    return shop.board(shop.folder / "results")


def kept_search(shop):
    """The kept search says that the other rate scored best, and the student is trained again with it."""
    path, search = searched(shop)
    scores = [0.1 if one["learning_rate"] == search["learning_rate"] else 0.9 for one in search["candidates"]]
    n = search["images"]["images"]
    candidates = [{**one, "top1": round(score * n) / n} for one, score in zip(search["candidates"], scores)]
    other = max(candidates, key=lambda one: one["top1"])["learning_rate"]
    file = next(path.parent.glob("learning-rate-search-*.json"))
    write(file, {**read(file), "candidates": candidates, "learning_rate": other})
    path.unlink()
    assert shop.train(*SEARCH).caught == SILENCE and read(path)["learning_rate_search"]["learning_rate"] == other
    return shop.verify(shop.folder / "results")


NO_OVERLAP = {"test_images": 0, "near_test_images": 0, "repeated": 0, "conflicts": 0}
RUNS = forgeries(
    "Run files",
    ("raises top-1 to a number that no count of test images makes", READING, "no whole number of 500 images",
     run_board(top1=0.97123)),
    ("raises top-1 above top-5", READING, "less than top1", run_board(top1=1.0, top5=0.9)),
    ("scores the easier half of the test split", READING, "scored 250 test images", run_board(images_scored=250)),
    ("scores a smaller test split, of a benchmark file of one's own", READING, "scored 250 test images",
     run_board(images_scored=250, test__images=250)),
    ("names a benchmark of one's own", READING, "is none of ours", run_board(benchmark="easy-digits")),
    ("scores another test split of the same size", READING, "other test images", other_split),
    ("takes knobs of one's own under the name of a released protocol, with their true digest", READING,
     "its knobs have digest", released_board(with_other_knobs)),
    ("hides --set: the overrides are emptied, the knobs stay", READING, "as we read them 974086290837",
     run_board(protocol__overrides={})),
    ("says the digest of the released protocol under other knobs", READING, "states protocol digest",
     run_board(protocol__digest="974086290837")),
    ("trains longer than the recipe says and keeps the whole history", READING, "its history has 40 epochs", longer_history),
    ("reports the best epoch and cuts the history there", READING, "not the last epoch's", cut_history),
    ("writes more epochs into the recipe alone", READING, "its recipe has 'training.epochs'",
     run_board(recipe__training__epochs=40)),
    ("writes more optimizer steps into the recipe alone", READING, "its recipe has 'steps'", run_board(recipe__steps=9999)),
    ("says fewer images per class than there were", READING, "100 images, but 1 per class", run_board(images__ipc=1)),
    ("passes distilled images off as random ones", READING, "wanted a selection", run_board(arm="random-soft")),
    ("passes a training on all images off as a distilled arm", READING, "training makes it 'full'",
     run_board(images__source="full")),
    ("takes away the mark that the test split was watched, but not the scores", READING, "monitored_test says", watched),
    ("says that a ResNet-18 reached what a ConvNet did", READING, "its protocol makes it 1.0",
     run_board(student="resnet18_cifar")),
    ("names no teacher of a teacher's labels", READING, "0 teachers, its recipe has 1", run_board(teachers=[])),
    ("says that the labels are classes, which cost nothing", READING, "labels are 'hard'", run_board(labels__kind="hard")),
    ("trains on test images, and says so", READING, "are images of the test split",
     run_board(images__checks={**NO_OVERLAP, "test_images": 3})),
    ("says more random images per class than their selection", READING, "with 10 per class",
     lambda shop: board_of(shop, shop.run(0, "random"), images__source="random:ipc=1,seed=0")),
    ("gives worse images than those of the draw as random ones", READING, "other real images", other_random_images),
    ("draws random images from a train split of one's own", READING, "drawn from 50 train images",
     lambda shop: board_of(shop, shop.run(0, "random"), images__train__images=50)),
    ("puts the Run of another seed under a further name", READING, "is the Run that belongs at", renamed),
    ("puts two results of one seed side by side and hopes for the better", READING, "one and the same", two_of_one_seed),
    ("links to somebody else's Run", READING, "a link, which is not followed", linked),
    ("adds a second `top1` for a reader that takes the last", READING, "more than once", twice),
    ("says another precision, to stand beside other rows", READING, "with another precision: bf16", precision_renamed),
    ("says that students have views of their own, of a seed that is not theirs", READING, "views_seed is 3",
     run_board(views="each", views_seed=3)),
    ("says another rate of a learning-rate search than the one that scored best", READING, "scored best", searched_otherwise),
    ("searches the learning rate on the test split", READING, "not scored on held-out train images", searched_on_test),
    ("copies the best seed over the worst, with its own number", VERIFY, "the losses of another student to the last digit",
     seed_copied),
    ("raises top-1 while the network beside it scores less", VERIFY,
     "scored again on digits-test, 500 images, in fp32: top-1 58.", run_verified(top1=0.97, top5=1.0)),
    ("says another learning rate of an epoch", READING, "learning rate of epoch 3 of its history is 0.5",
     run_board(history__3__learning_rate=0.5)),
    ("says another number of parameters", READING, "training makes it 300810", run_board(network__parameters=1000)),
    ("says dropout where the recipe has none", READING, "network.dropout is 0.5, training makes it 0.0",
     run_board(network__dropout=0.5)),
    ("says another digest of the views", READING, "labels.views_digest is '000000000000'",
     run_board(labels__views_digest="0" * 12)),
    ("says another seed of the labels' views than the student's", READING, "labels.views_seed is 7, training makes it 0",
     run_board(labels__views_seed=7)),
    ("says fewer epochs of labels", READING, "labels.epochs is 3, training makes it 20", run_board(labels__epochs=3)),
    ("says that labels take fewer bytes", READING, "labels.bytes is 10, training makes it", run_board(labels__bytes=10)),
    ("names another teacher in `teachers_id` than in `teachers`", READING, "labels.teachers_id is",
     run_board(labels__teachers_id="0" * 64)),
    ("says a higher top-1 of the teacher that comes with the project", READING, "top1 is 1.0, training makes it 0.99",
     run_board(teachers__0__top1=1.0)),
    ("says that a set shares less with the test split than it does", VERIFY, "none is a test image or nearly one",
     run_verified(images__checks__near_test_images=7)),
    ("names the images of a public set and has others", VERIFY, "read again: fingerprint",
     run_verified(images__fingerprint="0" * 64)),
    ("gives random images that the seed does not draw", VERIFY, "drawn again from the train split: fingerprint",
     run_verified("random", images__fingerprint="0" * 64)),
    ("raises top-1 of a seed whose network was not kept", STATED, "the weights are not kept beside it", run_alone(seed=1,
     top1=0.97, top5=1.0)),
    ("lowers top-1 of random images, to win by more", STATED, "the weights are not kept beside it", run_alone("random",
     seed=1, top1=0.1, top5=0.6)),
    ("keeps the best three of ten seeds", STATED, "3, 7, 9", chosen_seeds),
    ("keeps the worst draw of random images", STATED, "--arms random-soft --draw 2", chosen_draws),
    ("says less, as older versions did: no network, no kind of views, no look at the test split", STATED,
     "trained under this protocol", older),
    ("takes away that the test split was watched, with the scores", STATED, "trained under this protocol",
     run_alone(monitored_test=False)),
    ("says fewer seconds", STATED, "trained under this protocol", run_alone(seconds=0.01)),
    ("says that the code was as published", STATED, "trained under this protocol", run_alone(environment__git="0" * 40)),
    ("invents a falling loss", STATED, "trained under this protocol", run_alone(history__5__loss=0.00001)),
    ("edits a kept learning-rate search so that another rate wins", STATED, "trained under this protocol", kept_search),
)  # fmt: skip


# --- networks


def kept_network(shop):
    return shop.run().with_suffix("")


def network_of(shop, change):
    """Change the weights that are kept of seed 0 by change(tensors), then verify the folder of results."""
    path = kept_network(shop) / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors) or tensors, path, {"format": "pt"})
    return shop.verify(shop.results)


def teacher_as_student(shop, **fields):
    """The teacher's weights, of the same architecture and trained on all images, are put in the student's place."""
    shutil.copy(EMBEDDED / "digits-teacher-convnet3/model.safetensors", kept_network(shop))
    edit(shop.run(), top1=0.99, top5=read(EMBEDDED / "digits-teacher-convnet3/run.json")["top5"], **fields)


def teacher_verified(shop):
    teacher_as_student(shop)
    return shop.verify(shop.results)


def teacher_signed(shop, **options):
    """The same, with the SHA-256 of the weights in the Run renewed."""
    teacher_as_student(shop)
    network = students.create("convnet3", benchmarks.load("digits"), 0)
    network.load_state_dict(load_file(kept_network(shop) / "model.safetensors"))
    edit(shop.run(), weights__sha256=weights.weights_sha256(network))
    return shop.verify(shop.run(), **options)


def other_architecture(shop):
    config = kept_network(shop) / "config.json"
    edit(config, architecture="convnet4")
    return shop.verify(shop.results)


def other_classes(shop):
    config = kept_network(shop) / "config.json"
    edit(config, label_names=list("1023456789"))
    return shop.verify(shop.results)


def other_normalisation(shop):
    edit(kept_network(shop) / "config.json", pretrained_cfg__mean=[0.9] * 3)
    return shop.verify(shop.results)


def pickled(shop):
    (kept_network(shop) / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(3)}, kept_network(shop) / "pytorch_model.bin")
    return shop.verify(shop.results)


NETWORKS = forgeries(
    "Networks",
    ("replaces the weights by random ones and leaves the Run", VERIFY, "the weights have SHA-256",
     lambda shop: network_of(shop, lambda t: {k: torch.randn_like(v) for k, v in t.items()})),
    ("puts no numbers into the weights", VERIFY, "scored again",
     lambda shop: network_of(shop, lambda t: {k: v * float("nan") for k, v in t.items()})),
    ("changes one weight a little, and no answer with it", VERIFY, "the weights have SHA-256",
     lambda shop: network_of(shop, lambda t: {k: v + 1e-6 * (v == v.flatten()[0]) for k, v in t.items()})),
    ("puts the teacher's weights in the student's place, and raises top-1", VERIFY, "the weights have SHA-256",
     teacher_verified),
    ("puts the teacher's weights there, and signs them in the Run; only `--retrain` would tell", STATED,
     "trained under this protocol", teacher_signed),
    ("does so, and `--retrain` trains the student again", VERIFY, "trained again",
     lambda shop: teacher_signed(shop, retrain="first"), True),
    ("says another architecture in config.json", VERIFY, "config.json is that of a convnet3", other_architecture),
    ("names the classes in another order in config.json", VERIFY, "config.json is that of a convnet3", other_classes),
    ("says another normalisation of the pixels in config.json", VERIFY, "config.json is that of a convnet3",
     other_normalisation),
    ("gives a pickle in the place of the weights", VERIFY, "these weights score", pickled),
)  # fmt: skip


# --- cards and pushed repos


def rewritten(path, old, new, count=1):
    text = path.read_text()
    changed_text = re.sub(old, new, text, count=count)
    assert changed_text != text, (path, old)
    path.write_text(changed_text)


def card_text(old, new):
    """A forger that edits README.md of the results."""

    def forge(shop):
        rewritten(shop.card / "README.md", old, new)
        return shop.verify(shop.results)

    return forge


def report_numbers(**fields):
    def forge(shop):
        edit(shop.card / "report.json", **fields)
        return shop.verify(shop.results)

    return forge


def repo_text(name, old, new):
    """A forger that edits a file of a pushed repo."""

    def forge(shop):
        rewritten(next(shop.repo.glob(name)), old, new)
        return shop.verify(shop.repo)

    return forge


def repo_run(name="run.json", **fields):
    def forge(shop):
        edit(next(shop.repo.glob(name)), **fields)
        return shop.verify(shop.repo)

    return forge


def worst_seed_deleted(shop):
    min((shop.run(0), shop.run(1)), key=lambda path: read(path)["top1"]).unlink()
    return shop.verify(shop.results)


def more_runs(shop):
    """A third seed, whose score nobody has, is added below the card."""
    write(shop.run(0).with_name("seed2.json"), changed(read(shop.run(1)), seed=2, top1=0.99, top5=1.0))
    return shop.verify(shop.results)


CARDS = forgeries(
    "Cards and repos",
    ("raises the number in the title of the card", VERIFY, "97.30 % top-1", card_text(r"(# digits-dm-ipc10 .*: )[\d.]+ %",
     r"\g<1>97.30 %")),
    ("raises a number in the table of the card", VERIFY, "| 97.30 |", card_text(r"\| distilled-soft \| [\d.]+",
     "| distilled-soft | 97.30")),
    ("lowers the random images' number in the table of the card", VERIFY, "| 9.30 |", card_text(r"\| random-soft \| [\d.]+",
     "| random-soft | 9.30")),
    ("raises the number in the front matter, which the Hub shows", VERIFY, "value 0.973", card_text(r"value: [\d.]+",
     "value: 0.973")),
    ("takes the warning that the protocol is custom off the card", STATED, "lacks > **The protocol is custom",
     card_text(r"\n> \*\*The protocol is custom.*\n", "\n")),
    ("calls a custom protocol by its released name in the tags", VERIFY, "tag 'protocol-rd3-v1'",
     card_text("protocol-custom-rd3-v1",
     "protocol-rd3-v1")),
    ("adds a sentence of praise to the card", STATED, "not made from Runs: State of the art", card_text("## Scores",
     "State of the art.\n\n## Scores")),
    ("raises the mean in report.json", VERIFY, "distilled-soft.mean 0.973",
     report_numbers(**{"arms__convnet3__distilled-soft__mean": 0.973})),
    ("says more students in report.json", VERIFY, "states 30 students",
     report_numbers(**{"arms__convnet3__distilled-soft__n": 30})),
    ("deletes the worst seed after the card was written", VERIFY, "metrics[0].value", worst_seed_deleted),
    ("adds a better Run below the card, made of the one of another seed", VERIFY,
     "the losses of another student to the last digit", more_runs),
    ("raises the number in .eval_results, which leaderboards of the Hub read", VERIFY, "value 97.3",
     repo_text(".eval_results/*.yaml",
     r"value: [\d.]+", "value: 97.3")),
    ("says more students in the notes of .eval_results", VERIFY, "of 9 students", repo_text(".eval_results/*.yaml",
     r"of 2 students",
     "of 9 students")),
    ("raises top-1 in run.json of a repo", VERIFY, "scored again on digits-test", repo_run(top1=0.97, top5=1.0)),
    ("raises top-1 in both copies of the Run in a repo", VERIFY, "scored again on digits-test", lambda shop: (
        edit(next(shop.repo.glob("runs/**/distilled-soft/seed0.json")), top1=0.97, top5=1.0), repo_run(top1=0.97,
        top5=1.0)(shop))[1]),
)  # fmt: skip


# --- image sets


def with_test_image(images, labels):
    images[3] = digits_of_the_test_split().images[7]


def nearly_a_test_image(images, labels):
    images[3] = digits_of_the_test_split().images[7]
    images[3, :, 4, 4] = images[3, :, 4, 4] // 2 + 30


def shifted_test_image(images, labels):
    images[3] = digits_of_the_test_split().images[7].roll(1, 2)


def digits_of_the_test_split():
    return image_sets.test_split(benchmarks.load("digits"))


def repeated(images, labels):
    images[1] = images[0]


def in_two_classes(images, labels):
    images[int((labels != labels[0]).nonzero()[0, 0])] = images[0]


def swapped_classes(images, labels):
    return images, torch.where(labels == 3, 8, torch.where(labels == 8, 3, labels))


def set_verified(change):
    def forge(shop):
        return shop.verify(shop.save_set(change))

    return forge


def swapped_verified(shop):
    return shop.verify(shop.save_set(swapped_classes), teacher=("default",))


def about(**fields):
    """A forger of distilled.json of an image set."""

    def forge(shop):
        edit(shop.images / "distilled.json", **fields)
        return shop.verify(shop.images)

    return forge


def pixels_changed(shop):
    """The pixels of a set are others than distilled.json says."""
    folder = shop.save_set(repeated)
    shutil.copy(shop.images / "distilled.json", folder)
    return shop.verify(folder)


def one_more(images, labels):
    """109 images of ten classes: a mean of ten per class, rounded down."""
    more = torch.arange(9)
    return torch.cat([images, images[more].flip(1).roll(1, 3)]), torch.cat([labels, labels[more]])


IMAGES = forgeries(
    "Image sets",
    ("puts a test image into the set", READING, "are images of the test split", set_trained(with_test_image)),
    ("changes a pixel of a test image in the set", STATED, "near cop", set_trained(nearly_a_test_image)),
    ("shifts a test image by a pixel, so that it is no near copy", STATED,
     "making the set again, with the settings there, would tell", set_verified(shifted_test_image)),
    ("gives an image twice, to weigh it more", STATED, "pixels of an earlier one", set_trained(repeated)),
    ("gives one image to two classes", STATED, "one of another class", set_trained(in_two_classes)),
    ("swaps two classes of a rival's set", VERIFY, "are taken for 8 in 10 of 10", swapped_verified),
    ("changes pixels after distilled.json was written", VERIFY, "of the pixels, labels and class names that were read",
     pixels_changed),
    ("says another number of images per class in distilled.json", VERIFY, "counted: ipc 10", about(ipc=1)),
    ("says fewer seconds of synthesis in distilled.json", STATED, "stated by its publisher", about(seconds=0.1)),
    ("says another method in distilled.json", STATED, "made by 'mine' in 49.2 seconds", about(method="mine")),
)  # fmt: skip


# --- the real data, benchmarks, protocols


def data_dir(shop, train, test):
    """A folder with the digits as parquet files, after train(set) and test(set)."""
    digits = benchmarks.load("digits")
    for split, change in (("train", train), ("test", test)):
        images = image_sets.of_table(tables.real(digits, split))
        (shop.folder / "data").mkdir(exist_ok=True)
        images = change(images)
        path = image_sets.save(images, shop.folder / "data" / split)
        path.rename(shop.folder / f"data/{split}.parquet")
    return shop.folder / "data"


def same(images):
    return images


def easy(images):
    """Every test image of a class is the same one."""
    first = torch.stack([(images.labels == k).nonzero()[0, 0] for k in range(10)])
    return image_sets.make("test", images.images[first[images.labels]], images.labels, images.class_names, "mine")


def half(images):
    return image_sets.make("test", images.images[::2], images.labels[::2], images.class_names, "mine")


def short_training(shop, folder):
    return shop.train(*SHORT, "--distilled", "digits-dm-ipc1", "--data-dir", folder)


def on_easy_test_images(shop):
    done = short_training(shop, data_dir(shop, same, easy))
    assert done.caught == SILENCE, done
    return shop.verify(shop.folder / "results")


def on_fewer_test_images(shop):
    return short_training(shop, data_dir(shop, same, half))


def protocol_file(name, **replaced):
    """A forger that trains under a protocol file NAME.toml: rd3-v1 with other text in it."""

    def forge(shop):
        text = (protocols.RELEASED / "rd3-v1.toml").read_text()
        for old, new in replaced.values():
            assert old in text
            text = text.replace(old, new, 1).replace('name = "rd3-v1"', f'name = "{name}"')
        (shop.folder / f"{name}.toml").write_text(text)
        words = "--protocol", f"{name}.toml", "--distilled", "digits-dm-ipc1", "--teacher", "default"
        done = shop.train(*words, "--set", "training.epochs=2")
        return done if done.caught == READING else shop.pages(shop.folder / "results")

    return forge


def custom_on_board(shop):
    return shop.pages(shop.results)


DATA = forgeries(
    "Real data, benchmarks and protocols",
    ("gives a smaller test split by --data-dir", READING, "wanted the official 500", on_fewer_test_images),
    ("gives an easier test split of the same size by --data-dir", VERIFY, "the test split, read again: fingerprint",
     on_easy_test_images),
    ("writes a protocol file of other knobs with a released name", READING, "takes the released name",
     protocol_file("rd3-v1", epochs=("epochs = 400", "epochs = 5"))),
    ("writes a protocol file of other knobs with a name of its own", STATED, "custom, based on mine",
     protocol_file("mine", rate=("learning_rate = 0.001", "learning_rate = 0.01"))),
    ("changes a released protocol with --set", STATED, "custom, based on rd3-v1", custom_on_board),
)  # fmt: skip


# --- checkpoints, caches, transfers, launches


def resumed(change, then=None):
    """A forger of the checkpoint of a stopped training, which then goes on."""

    def forge(shop):
        shop.stopped(change)
        done = shop.train("--distilled", "digits-dm-ipc10")
        if "starts again from its first epoch" in done.said:
            return Answer(READING, done.said)
        return done if done.caught == READING or then is None else then(shop)

    return forge


def of_teacher(state):
    state["network"] = load_file(EMBEDDED / "digits-teacher-convnet3/model.safetensors")


def no_numbers(state):
    state["network"] = {key: value * float("nan") for key, value in state["network"].items()}


def verified(shop):
    return shop.verify(next(shop.folder.glob("results/**/seed0.json")))


def retrained(shop):
    return shop.verify(next(shop.folder.glob("results/**/seed0.json")), retrain="first")


def all_epochs(shop, then=verified):
    """A history of 19 epochs, with true learning rates, beside weights that come from elsewhere: one epoch is left to train."""

    honest = Workshop(shop.original, shop.folder / "honest")
    honest.folder.mkdir()
    rates = read(honest.run())["history"]

    def forge(state):
        of_teacher(state)
        state |= {"epoch": 19, "history": [*state["history"], *({**rates[i], "loss": 0.001} for i in range(10, 19))]}

    return resumed(forge, then)(shop)


def other_labels(state):
    state["labels"] = {**state["labels"], "views_seed": 3}


def cached(shop):
    """Test images in the cache of decoded ones are replaced by easy ones, and a student is scored on them."""
    folder = data_dir(shop, same, same)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sets, "MAPPED", 0)
        patch.setattr(decoded, "DECODED", shop.folder / "cache")
        honest = image_sets.test_split(benchmarks.load("digits"), folder)
        (pixels,) = (path for path in shop.folder.glob("cache/*/pixels.u8") if path.stat().st_size == honest.images.numel())
        pixels.chmod(0o644)
        pixels.write_bytes(easy(honest).images.numpy().tobytes())
        done = short_training(shop, folder)
    return done if done.caught == READING else shop.verify(shop.folder / "results")


def carried(shop, **fields):
    """A record of a transfer, edited; its folder is then read for a report."""
    where = shop.folder / "results/transfer/digits/full-0"
    write(where / "convnet3.json", {"schema": 1, "name": "x", "network": {}, **fields})
    return refused(lambda: records.records_of(where))


def embedded_teacher(**fields):
    """A forger of a copy of the embedded teacher."""

    def forge(shop):
        folder = shop.folder / "digits-teacher-convnet3"
        shutil.copytree(EMBEDDED / folder.name, folder)
        edit(folder / "run.json", **fields)
        return shop.verify(folder)

    return forge


def launched(**environment):
    return lambda shop: shop.train("--distilled", "digits-dm-ipc1", "--teacher", "default", environment=environment)


def config_file(shop):
    """A launch file with a compiler in it, as a study reads it."""
    config = type("Config", (), {"mixed_precision": "no", "dynamo_config": {"dynamo_backend": "INDUCTOR"}})
    return refused(lambda: launch.check_config(config, "mine.yaml"))


OTHERS = forgeries(
    "Checkpoints, caches, records and launches",
    ("says in a checkpoint that more epochs are done than its history has", READING, "its history has 10",
     resumed(lambda state: state.update(epoch=19))),
    ("says in a checkpoint that it learned from other labels", READING, "learned from other labels", resumed(other_labels)),
    ("puts no numbers into the weights of a checkpoint", READING, "no finite numbers", resumed(no_numbers)),
    ("adds a key to a checkpoint", READING, "starts again from its first epoch", resumed(lambda state: state.update(more=1))),
    ("puts better weights into a checkpoint; only `--retrain` would tell", STATED, "trained under this protocol",
     resumed(of_teacher, verified)),
    ("does so, and `--retrain` trains the student again", VERIFY, "trained again", resumed(of_teacher, retrained), True),
    ("puts better weights and an invented history into a checkpoint", STATED, "trained under this protocol", all_epochs),
    ("does so, too, and `--retrain` trains the student again", VERIFY, "trained again",
     lambda shop: all_epochs(shop, retrained), True),
    ("replaces test images in the cache of decoded ones, and keeps no network", STATED, "the weights are not kept beside it",
     cached),
    ("writes a record of transfer that lacks what it was measured with", READING, "is no record of transfer", carried),
    ("raises top-1 in the Run of a teacher", VERIFY, "scored again on digits-test", embedded_teacher(top1=0.998)),
    ("has a compiler change what is computed", READING, "ACCELERATE_DYNAMO_BACKEND is inductor",
     launched(ACCELERATE_DYNAMO_BACKEND="inductor")),
    ("has a launch divide the loss", READING, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is 4",
     launched(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")),
    ("has a launch compute in eight bits", READING, "ACCELERATE_MIXED_PRECISION is fp8",
     launched(ACCELERATE_MIXED_PRECISION="fp8")),
    ("has a GPU round to TF32", READING, "NVIDIA_TF32_OVERRIDE is 1", launched(NVIDIA_TF32_OVERRIDE="1")),
    ("hides a compiler in a launch file", READING, "dynamo_backend is INDUCTOR", config_file),
)  # fmt: skip
FORGERIES = [*STORES, *RUNS, *NETWORKS, *CARDS, *IMAGES, *DATA, *OTHERS]


@pytest.fixture
def shop(original, tmp_path):
    return Workshop(original, tmp_path)


def cases(rows):
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(one, id=f"{one.kind}: {one.text}"[:90], marks=marks[one.slow]) for one in rows]


@pytest.mark.parametrize("forgery", cases(FORGERIES))
def test_nobody_cheats_in_silence(shop, forgery):
    answer = forgery.by(shop)
    said = answer.said[:2000]
    assert answer.caught == forgery.caught, said
    assert forgery.words and forgery.words in answer.said, said


def test_what_nobody_forged_is_read_ranked_and_confirmed(shop):
    assert shop.board().caught == shop.card_again().caught == SILENCE
    for source in (shop.results, shop.repo, shop.store, shop.images):
        assert not [check for check in shop.verification(source).checks if check.outcome == "contradicted"]


# --- generated ones: any place, any value, from a fixed seed

CHECKED = {  # what no Run tells of itself, and `verify` finds out with the real data and the network at hand
    "top1", "top5", "images.fingerprint", "images.train.fingerprint", "images.checks", "test.fingerprint", "seed",
}  # fmt: skip
LEFT = {field for fields in as_trained.STATED for field in fields.split(", ")} - CHECKED | {
    "protocol.name"
}  # called so on boards


def is_left(path):
    """Whether a path in a Run is of what only its publisher knows."""
    words = [str(part) for part in path if not isinstance(part, int)]
    return any(".".join(words[:n]) in LEFT for n in range(1, len(words) + 1))


def leaves(table, path=()):
    """Paths of all that is neither table nor list in plain data."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    if not isinstance(table, dict | list):
        yield path
    for key, value in items:
        yield from leaves(value, (*path, key))


def at(table, path):
    for key in path:
        table = table[key]
    return table


def another(value, chance):
    """A value of the same kind that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + chance.choice([-1, 1, 2, 10])) if value else chance.choice([1, 2, 10])
    if isinstance(value, float):
        return chance.choice([value / 2, min(1.0, value * 1.1 + 0.002), 0.5 * value + 0.25])
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{12,64}", value):
        place = chance.randrange(len(value))
        return value[:place] + chance.choice("0123456789abcdef".replace(value[place], "")) + value[place + 1 :]
    return "other" if value is None or chance.random() < 0.5 else f"{value}2"


def unnoticed(shop, count, seed):
    """[(path, value)] of `count` changes of single values in a Run that neither a board nor `verify` notices."""
    chance, honest, silent = random.Random(seed), read(shop.run()), []
    paths = [path for path in leaves(honest) if not is_left(path)]
    for _ in range(count):
        key = chance.choice(sorted({path[0] for path in paths}))
        path = chance.choice([path for path in paths if path[0] == key])
        value = another(at(honest, path), chance)
        if value == at(honest, path):
            continue
        write(shop.run(), changed(honest, **{"__".join(map(str, path)): value}))
        board = refused(lambda: vetting.vetted(shop.run().read_bytes()))
        if board.caught == SILENCE and not shop.verification(shop.run()).count("contradicted"):
            silent.append((".".join(map(str, path)), at(honest, path), value))
    return silent


@pytest.mark.parametrize("seed, count", [(0, 60), pytest.param(1, 600, marks=pytest.mark.slow)])
def test_no_value_of_a_run_is_changed_in_silence(shop, seed, count):
    assert unnoticed(shop, count, seed) == []


@pytest.mark.parametrize("seed, count", [(0, 6), pytest.param(1, 60, marks=pytest.mark.slow)])
def test_no_number_of_a_card_is_changed_in_silence(shop, seed, count):
    chance, path = random.Random(seed), shop.card / "README.md"
    honest = path.read_text()
    numbers = list(re.finditer(r"(?<![\w.-])\d+\.\d+(?![\w.])", honest))
    silent = []
    for number in (chance.choice(numbers) for _ in range(count)):
        other = "".join(chance.choice("0123456789") if c.isdigit() else c for c in number.group())
        if other != number.group():
            path.write_text(honest[: number.start()] + other + honest[number.end() :])
            if not shop.verification(shop.results).count("contradicted"):
                silent.append(honest[number.start() - 60 : number.end() + 20])
    assert silent == []


@pytest.mark.parametrize("seed, count", [(0, 3), pytest.param(1, 60, marks=pytest.mark.slow)])
def test_no_number_of_a_label_store_is_changed_in_silence(shop, seed, count):
    """One number of one view is another one: a training that reads that epoch stops."""
    chance, silent = random.Random(seed), []
    for i in range(count):
        one = Workshop(shop.original, shop.folder / str(i))
        one.folder.mkdir()
        path = chance.choice(sorted(one.store.glob("labels-*")))
        key = chance.choice(["box", "flip", "mix_partner", "mix_box", "order"])
        place = [chance.random() for _ in range(3)]

        def change(tensors, first, key=key, place=place):
            tensor = tensors[key]
            at = tuple(int(part * size) for part, size in zip(place, tensor.shape))
            tensor[at] = torch.tensor(int(tensor[at]) ^ 1).to(tensor.dtype)

        forge_shards(one.store, change, only=path.name)
        if one.train("--distilled", "digits-dm-ipc10", "--soft-labels", one.store).caught != READING:
            silent.append((path.name, key, place))
    assert silent == []


@pytest.mark.parametrize("seed, count", [(0, 4), pytest.param(1, 40, marks=pytest.mark.slow)])
def test_no_pixel_of_an_image_set_is_changed_in_silence(shop, seed, count):
    chance, about, silent = random.Random(seed), read(shop.images / "distilled.json"), []
    for _ in range(count):
        place = chance.randrange(100), chance.randrange(3), chance.randrange(8), chance.randrange(8)

        def change(images, labels, place=place):
            images[place] ^= 1

        folder = shop.save_set(change)
        write(folder / "distilled.json", about)
        if not shop.noticed(folder):
            silent.append(place)
    assert silent == []


def test_every_forgery_is_another_one_and_says_what_is_said():
    assert len({(one.kind, one.text) for one in FORGERIES}) == len(FORGERIES) >= 60
    assert all(one.words and one.caught in (READING, VERIFY, STATED) for one in FORGERIES)


def elsewhere():
    """(title, test, names) of forgeries that other tests try."""
    return [
        ("Label stores", "tests/test_label_checks.py", [*stores.VIEWS, *stores.FILES, *stores.LABELS]),
        ("Run files", "tests/test_leaderboard.py", list(test_leaderboard.FALSE)),
        ("Launches", "tests/test_arithmetic.py", list(launch.ARITHMETIC)),
    ]


def test_the_page_of_forgeries_is_what_is_tried():
    spec = importlib.util.spec_from_file_location("render_forgeries", PROJECT / "docs/render_forgeries.py")
    render_forgeries = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render_forgeries)
    assert (PROJECT / "docs/forgeries.md").read_text() == render_forgeries.page()
