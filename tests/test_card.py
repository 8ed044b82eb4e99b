"""The card: a Hub model card that reads back, holds fractions, and lets no name break out of its table."""

import json

import pytest
from conftest import run_script
from huggingface_hub import ModelCard
from making_runs import drawn, made
from PIL import Image

from rd3_utils.protocols import benchmark, protocol
from rd3_utils.publishing import card as cards
from rd3_utils.publishing import card_runs
from rd3_utils.text import fenced, table

SHORT = "--set", "training.epochs=3"


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """(path of a card with random and distilled images under two protocols, what the terminal said)."""
    folder = tmp_path_factory.mktemp("card")
    what = "--draws", "2", "--set", "training.epochs=20"
    run_script(folder, "train_student", *what, "--protocol", "hard-label-v1", "--arms", "distilled-hard,random-hard")
    done = run_script(folder, "train_student", *what, "--teacher", "default", "--arms", "distilled-soft,random-soft")
    assert done.code == 0, done.err
    (path,) = folder.glob("results/digits/rd3-v1-*/digits-dm-ipc1@*/README.md")
    return path, done.out


def test_a_card_reads_back_as_a_model_card_with_the_reports_numbers(card):
    path, out = card
    loaded = ModelCard.load(path)
    report = json.loads((path.parent / "report.json").read_text())
    mean = report["arms"]["convnet3"]["distilled-soft"]["mean"]
    (result,) = loaded.data.eval_results
    assert (result.metric_value, result.metric_type, result.dataset_split) == (mean, "accuracy", "test")
    assert {"rd3", "dataset-distillation", "benchmark-digits", "ipc-1"} <= set(loaded.data.tags)
    assert loaded.data.base_model is None and loaded.data.library_name == "timm"
    assert f"{100 * mean:.2f}" in loaded.text and f"{100 * mean:.2f}" in out


def test_a_card_says_how_much_is_recipe_and_how_much_is_data(card):
    path, out = card
    assert "The recipe adds" in path.read_text() and "The recipe adds" in out
    comparison = json.loads((path.parent / "report.json").read_text())["comparison"]["convnet3"]
    assert comparison["protocols"][0].startswith("hard-label-v1 (custom")


def test_a_card_shows_every_knob_its_source_and_the_command(card):
    text = card[0].read_text()
    for part in ("training.zeta", "lineage: 20", "custom, based on rd3-v1", "accelerate launch train\\_student.py",
                 "SHA-256 of the weights", "digits-dm-ipc1", "timm.create_model"):  # fmt: skip
        assert part.replace("\\", "") in text.replace("\\", ""), part
    assert str(card[0].parents[4]) not in text  # no path of the machine


def test_a_card_says_which_rule_a_value_comes_from():
    rded, cifar = protocol.load("rded-v1"), benchmark.load("cifar10")
    rules = rded.matching(cifar, "convnet3", 1)
    assert "10 at IPC 1" in cards.source_of("training.batch_size", "soft", rded, cifar, rules)
    assert cards.source_of("training.epochs", "soft", rded, cifar, rules) == rded.sources["training.epochs"]


def test_the_pictures_of_a_card_are_there_and_small(card):
    folder = card[0].parent
    pictures = sorted((folder / "plots").glob("*.png"))
    names = {path.stem for path in pictures}
    assert {"scores", "images", "learning_curves_convnet3", "views_distilled-soft"} <= names
    for path in pictures:
        assert f"plots/{path.name}" in card[0].read_text() and path.stat().st_size < 150_000
        assert min(Image.open(path).size) > 100


def test_a_card_is_the_same_whether_arms_ran_in_one_command_or_two(script, tmp_path):
    what = "--protocol", "hard-label-v1", *SHORT, "--draws", "1"
    script("train_student", *what, "--arms", "distilled-hard,random-hard", "--out", "one")
    script("train_student", *what, "--arms", "random-hard", "--out", "two")
    script("train_student", *what, "--arms", "distilled-hard", "--out", "two")
    reports = [json.loads(next((tmp_path / out).glob("digits/*/digits-dm*/report.json")).read_text()) for out in ("one", "two")]
    assert reports[0] == reports[1] and len(reports[0]["arms"]["convnet3"]) == 2


@pytest.mark.parametrize("text", ["a|b", "<script>alert(1)</script>", "`x`", "a\nb", "**b**", "[x](http://y)", "$x$"])
def test_no_name_breaks_out_of_a_table(text):
    row = table([["name"], [text]]).splitlines()[2]
    assert len(table([["name"], [text]]).splitlines()) == 3 and "<" not in row
    inner = row[2:-2]
    for character in "|`*[$":
        assert all(inner[i - 1] == "\\" for i, c in enumerate(inner) if c == character)


def test_a_code_block_cannot_be_closed_from_inside():
    assert fenced("x ``` y", "bash").startswith("````bash")


def test_a_card_says_that_an_arm_lacks_an_augmentation_of_the_headline(script, tmp_path):
    """Knobs that do nothing are not in a Run's recipe: the difference must be told all the same."""
    done = script("train_student", "--teacher", "default", "--arms", "distilled-soft,distilled-plain", "--set",
                  "training.epochs=2", "--set", "views.randaugment=2", "--set", "views.dsa=color_flip")  # fmt: skip
    assert done.code == 0, done.err
    card = next(tmp_path.glob("results/**/README.md")).read_text()
    (line,) = [line for line in card.splitlines() if "distilled-plain has instead" in line]
    assert "views.randaugment = 0" in line and "views.dsa = none" in line
    assert "without flip" in card


@pytest.mark.parametrize("labels", [{"teachers_id": "c" * 64}, {"ensemble": "mean"}, {"teacher_bn": "groups:50"}, "views"])
def test_arms_with_one_kind_of_labels_had_the_same_teachers_and_views(labels):
    """Improvement over random images is that of the images: not that of another teacher."""
    others = {"views_seed": 1} if labels == "views" else {"labels": labels}
    mine = made()
    told = [made(arm="random-soft", images=drawn(0), seed=k, **(others if k < 2 else {})) for k in range(3)]
    for finished in ([mine], [told[2]]):
        runs, left_out = card_runs.comparable([mine, *told], finished)
        assert runs == [mine, told[2]] and len(left_out) == 1
        assert "left out of the card: 2 Runs of convnet3, random-soft, that did not measure the same" in left_out[0]
    hard = made(arm="distilled-hard", labels={"kind": "hard", "teachers_id": None, "label_dtype": None, "forward_batch": None})
    assert card_runs.comparable([mine, hard], [mine]) == ([mine, hard], [])
    rounded = made(arm="random-soft", images=drawn(0), labels={"label_dtype": "u8"})  # a published store beside one made here
    assert card_runs.comparable([mine, rounded], [mine, rounded]) == ([mine, rounded], [])
