"""The views of a released version never change: what docs/view_vectors.json holds of each operation is drawn again.

Other numbers are another version of views (`recipe.VIEWS_VERSION`), whose stores have other digests. To write the page of a new
operation:

    python tests/test_view_vectors.py
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1])]
from rd3_utils.data import label_checks, soft_labels, views
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark, knobs, protocol, recipe

PAGE = Path(__file__).parents[1] / "docs" / "view_vectors.json"
PLAIN = {**knobs.PLAIN, "crop_scale": (0.2, 1.0), "crop_ratio": (0.75, 4 / 3), "padding": 0.125, "mix_alpha": 1.0,
         "mix_probability": 0.75, "mix_per": "group", "group": 3}  # fmt: skip
CASES: dict[str, dict] = {
    "order": {},
    "flip": {"flip": 0.5},
    "random_resized": {"crop": "random_resized"},
    "random_resized, no try fits": {"crop": "random_resized", "crop_scale": (0.9, 1.0), "crop_ratio": (3.0, 4.0)},
    "pad": {"crop": "pad"},
    "patch_shuffle": {"patch_shuffle": 4},
    "cutmix of a group": {"mix": "cutmix"},
    "cutmix of a row, rolled": {"mix": "cutmix", "mix_per": "row", "mix_pairing": "roll", "mix_alpha": 0.4},
    "mixup of a row": {"mix": "mixup", "mix_per": "row", "mix_alpha": 0.8},
    "randaugment": {"randaugment": 2},
    "randaugment of timm": {"randaugment": 2, "randaugment_kind": "timm", "randaugment_magnitude": 6},
    "color_jitter": {"color_jitter": 0.4},
    "lighting": {"lighting": 0.1},
    "dsa": {"dsa": "color_crop_cutout_flip_scale_rotate"},
    "all": {"crop": "random_resized", "flip": 0.5, "mix": "cutmix", "patch_shuffle": 2, "randaugment": 1,
            "color_jitter": 0.4, "lighting": 0.1, "dsa": "color_crop"},
}  # fmt: skip
IMAGES, SIZE, SEED, EPOCH = 6, 32, 5, 3


def recipe_of(stated):
    """A Recipe of these knobs of views, for IMAGES of SIZE."""
    base = protocol.load("rd3-v1").resolve(benchmark.load("cifar10"), "convnet3", 1, IMAGES, "soft")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}
    return dataclasses.replace(base, views=knobs.ViewKnobs(**given))


def drawn(stated):
    """{key in a shard: tensor} of the views that knobs mean."""
    one = recipe_of(stated)
    return soft_labels.view_tensors(views.draw(one, SEED, EPOCH), one.image_size, soft_labels.border_of(one))


def page():
    """What the page is to say."""
    cases = {}
    for name, changes in CASES.items():
        stated = knobs.stated(recipe_of({**PLAIN, **changes}).views)
        columns = {key: tensor.tolist() for key, tensor in drawn(stated).items()}
        cases[name] = {"views": stated, "views_digest": recipe_of(stated).views_digest, "columns": columns}
    return {"version": recipe.VIEWS_VERSION, "images": IMAGES, "image_size": SIZE, "views_seed": SEED, "epoch": EPOCH,
            "cases": cases}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_drawn_is_what_the_page_says(name):
    held = json.loads(PAGE.read_text())
    assert (held["version"], held["images"], held["image_size"]) == (recipe.VIEWS_VERSION, IMAGES, SIZE)
    assert (held["views_seed"], held["epoch"]) == (SEED, EPOCH)
    case = held["cases"][name]
    assert recipe_of(case["views"]).views_digest == case["views_digest"]
    columns = drawn(case["views"])
    stored = {key: torch.tensor(case["columns"][key]).to(column.dtype) for key, column in columns.items()}
    assert case["columns"].keys() == columns.keys()
    label_checks.check_views(stored, columns, EPOCH, name)
    shifted = {**stored, "order": stored["order"].flip(0)}
    with pytest.raises(UserError, match="'order' of row"):
        label_checks.check_views(shifted, columns, EPOCH, name)


def test_the_page_holds_every_column_and_every_operation():
    held = json.loads(PAGE.read_text())["cases"]
    assert held.keys() == CASES.keys()
    assert {key for case in held.values() for key in case["columns"]} == {
        "box", "flip", "mix_partner", "mix_box", "order", *(column.key for column in knobs.COLUMNS)
    }  # fmt: skip
    moved = {key for case in held.values() for key, value in case["views"].items() if knobs.PLAIN.get(key, value) != value}
    assert moved >= knobs.PLAIN.keys() - {"zca"}  # which draws nothing
    assert {case["views"]["crop"] for case in held.values()} == {"none", "pad", "random_resized"}
    assert {case["views"]["mix"] for case in held.values()} == {"none", "cutmix", "mixup"}


if __name__ == "__main__":
    text = json.dumps(page(), indent=1)
    PAGE.write_text(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text) + "\n")
