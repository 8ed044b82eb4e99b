"""Before anything is trained: which images of a set are test images, near copies of them, or twice in the set."""

import dataclasses
import sys
from collections.abc import Callable, Sequence

from accelerate import Accelerator

from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.data import overlap
from rd3_utils.data.images import ImageSet
from rd3_utils.data.overlap import Overlap
from rd3_utils.errors import UserError
from rd3_utils.launch import from_main
from rd3_utils.scoring.runs import Run


def with_checks(
    cells: list[PlannedRun], there: Sequence[Run | None], test: Callable[[], ImageSet], allow: bool, accelerator: Accelerator
) -> list[PlannedRun]:
    """The cells, those that are to be trained with what their images share with the `test` split, as Runs record it.

    UserError where a distilled set holds test images, unless `allow`. Random real images and the train split are not refused:
    benchmarks are published with what their splits share. What is found is said once for each set.
    """
    sets = {cell.images.fingerprint: cell.images for cell, run in zip(cells, there, strict=True) if run is None}

    def compared() -> dict[str, dict]:
        checks = {}
        for fingerprint, images in sets.items():
            copies = overlap.compare(images, test())
            if copies.test and not images.origin.is_selection and not allow:
                raise UserError(
                    f"{len(copies.test)} of the {len(images)} images of {images.name} are images of the test split "
                    f"({overlap.pairs(copies.test)}): a score on it would be of what was learned by heart. Remove them, or "
                    "train with --allow-test-images, which every output then says."
                )
            checks[fingerprint] = copies.counts
            for line in lines(images, copies):
                print(line, file=sys.stderr)
        return checks

    checks = from_main(accelerator, compared)
    known = {key: dataclasses.replace(images, checks=checks[key]) for key, images in sets.items()}
    return [dataclasses.replace(cell, images=known.get(cell.images.fingerprint, cell.images)) for cell in cells]


def lines(images: ImageSet, copies: Overlap) -> list[str]:
    """What a person is told of a set, a line for each kind that there is."""
    kinds = [copies.test, copies.near_test, copies.repeated, {row: copies.repeated[row] for row in copies.conflicts}]
    examples = [overlap.pairs(rows) for rows in kinds if rows]
    texts = overlap.in_words(copies.counts)
    return [f"{images.name}: {text} ({rows})." for text, rows in zip(texts, examples, strict=True)]
