"""A set with images of the test split: refused before anything is trained, or said by everything that is written."""

import json

import pytest
from conftest import run_script

from rd3_utils.data import images as image_sets

SHORT = "--protocol", "hard-label-v1", "--set", "training.epochs=1", "--student", "convnet1"


@pytest.fixture(scope="module")
def leaky(ten, test_set, tmp_path_factory):
    """A folder with ten digits: one is a test image, one nearly, one stands twice, once as another class."""
    pixels, labels = ten.images.clone(), ten.labels.clone()
    pixels[2], pixels[5], pixels[7] = test_set.images[40], test_set.images[41], pixels[6]
    pixels[5, :, 3, 3] = (pixels[5, :, 3, 3].int() + 9).clamp(0, 255).byte()
    folder = tmp_path_factory.mktemp("leaky") / "mine"
    image_sets.save(image_sets.make("mine", pixels, labels, ten.class_names, "here"), folder)
    return folder


def images_of(folder):
    return [json.loads(path.read_text())["images"] for path in sorted(folder.glob("results/**/seed*.json"))]


def test_a_set_that_holds_test_images_is_refused_before_anything_is_trained(script, tmp_path, leaky):
    done = script("train_student", *SHORT, "--distilled", leaky)
    assert done.code == 2 and not images_of(tmp_path)
    assert "1 of the 10 images of mine are images of the test split (row 2 is 40)" in done.err and done.err.count("error:") == 1


@pytest.fixture(scope="module")
def allowed(leaky, tmp_path_factory):
    """(folder, what was said) of a student of that set, and of random images, that was trained all the same."""
    folder = tmp_path_factory.mktemp("allowed")
    done = run_script(folder, "train_student", *SHORT, "--distilled", leaky, "--allow-test-images",
                      "--arms", "distilled-hard,random-hard", "--draws", "1")  # fmt: skip
    assert done.code == 0, done.err
    return folder, done


def test_where_it_is_allowed_terminal_card_and_run_say_so(allowed):
    folder, done = allowed
    runs = {one["name"]: one["checks"] for one in images_of(folder)}
    assert runs["mine"] == {"test_images": 1, "near_test_images": 1, "repeated": 1, "conflicts": 1}
    assert runs["random-ipc1-seed0"] == dict.fromkeys(runs["mine"], 0)
    card = next(folder.glob("results/**/README.md")).read_text()
    for text in ("1 images that are in the test split", "1 images that are near copies of test images",
                 "1 images with the pixels of an earlier one", "1 images with the pixels of one of another class"):  # fmt: skip
        assert f"mine: {text}." in card and f"mine: {text} (row " in done.err


def test_a_board_does_not_rank_it(allowed, tmp_path):
    done = run_script(tmp_path, "rd3_utils", "leaderboard", "--results", allowed[0] / "results", "--out", "site")
    assert done.code == 0, done.err
    assert "1 of its 10 images are images of the test split" in (tmp_path / "site/not-ranked.html").read_text()


def test_a_run_that_is_there_is_kept_without_a_look(allowed, leaky):
    folder, _ = allowed
    before = images_of(folder)
    done = run_script(folder, "train_student", *SHORT, "--distilled", leaky, "--arms", "distilled-hard")
    assert done.code == 0, done.err
    assert images_of(folder) == before
