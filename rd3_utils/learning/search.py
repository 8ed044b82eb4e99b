"""Learning-rate search: a recipe's grid is tried once per images and student, on real train images kept aside for it.

The test split takes no part. The winner is what the recipe then trains with, whatever the seed; grid, winner, every
candidate's accuracy and the images are recorded.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from rd3_utils.data import images as image_sets
from rd3_utils.data import selections, sources
from rd3_utils.data.images import ImageSet
from rd3_utils.data.tables import Table
from rd3_utils.errors import UserError
from rd3_utils.protocols.recipe import Recipe

SEED = 0  # of every candidate
MOST = 5_000  # images held out
MOST_SHARE = 10  # and at most a tenth of the train split
ORDER_SEED = 10**18  # seed of the order in which images are held out: no selection random:ipc=K,seed=S has it


def held_out(train: Table, images: ImageSet) -> ImageSet:
    """The ImageSet of real images on which rates are compared: as many of every class, none with the pixels of one in `images`.

    `train` is the Table of the train split. UserError where nothing of a class is left, as for the whole split itself.
    A patch of a train image, or an image optimised from one, is not recognised.
    """
    per_class = min(len(train) // MOST_SHARE, MOST) // len(train.class_names)
    if per_class == 0 or len(images) + per_class * len(train.class_names) > len(train):
        raise UserError(
            f"training.learning_rates: {images.name} leaves too few of the {len(train)} train images to hold some out; "
            "state one training.learning_rate and training.learning_rates=[]."
        )
    trained_on = {held_out_fingerprint(image) for image in images.images.numpy()}
    picked = [unseen(train, rows, per_class, trained_on) for rows in selections.shuffled(train, ORDER_SEED)]
    least = min(map(len, picked))
    if least == 0:
        raise UserError(f"training.learning_rates: {images.name} holds every train image of a class; none is left to hold out.")
    rows = np.concatenate([mine[:least] for mine in picked])
    return image_sets.of_table(train, rows, f"held-out-ipc{least}", sources.held_out(least).text)


def unseen(train: Table, rows: np.ndarray, wanted: int, trained_on: set[bytes]) -> np.ndarray:
    """The first `wanted` of `rows` whose pixels are not in `trained_on`."""
    new_rows: list[int] = []
    for start in range(0, len(rows), wanted):
        chunk = rows[start : start + wanted]
        pixels = np.empty((len(chunk), 3, train.size, train.size), np.uint8)
        train.decode(chunk, pixels)
        new_rows += [row for row, image in zip(chunk, pixels) if held_out_fingerprint(image) not in trained_on]
        if len(new_rows) >= wanted:
            break
    return np.array(new_rows[:wanted], np.int64)


def held_out_fingerprint(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe that trains at this learning rate."""
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, learning_rate=rate))


def best(rates: Sequence[float], top1_of: Callable[[float], float | None], images: ImageSet) -> dict:
    """What a Run records of the search: {"learning_rate" (the best; of equals the smallest), "candidates", ...}.

    `top1_of(rate)` trains a student and scores it on the ImageSet `images`; None: the training diverged. UserError where
    all of them did.
    """
    started = time.time()
    candidates: list[dict] = [{"learning_rate": rate, "top1": top1_of(rate)} for rate in sorted(rates)]
    finished = [candidate for candidate in candidates if candidate["top1"] is not None]
    if not finished:
        raise UserError(f"training.learning_rates: the training diverged at each of {', '.join(map(str, rates))}.")
    return {
        "grid": list(rates),
        "learning_rate": max(finished, key=lambda candidate: candidate["top1"])["learning_rate"],
        "candidates": candidates,
        "seed": SEED,
        "images": images.describe(),
        "seconds": time.time() - started,
    }
