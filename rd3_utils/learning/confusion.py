"""Classes that look swapped or permuted: a teacher takes the images of one class for another, and those of that one back.

A set of poor images is not such a set: a teacher may take most of its images for one class, or for look-alikes. So only
circles count: of class a most images are taken for b, of b most for c, ..., of the last most for a. How often chance makes one
is counted against the worst honest set that comes to mind, in which every class has one look-alike that its images are taken
for as often as for their own class. Then x of x + y images that are taken for either go to the look-alike with the chance that
x + y tosses of a coin give x heads or more; C classes have at most C / L circles of L, and C choose k ways that k of them lie
in circles. Below CHANCE a circle is told, or all of them together: so at most 1 of 500 such sets is told of for nothing. So 10
images per class show two swapped classes of 10 (5 / 2^20) or of 1,000 (1 / 2,000); one image per class shows nothing but the
order of all 10 classes (1 / 1,024), or of most of 100. Where a teacher's answers have nothing to do with the images, one of
two classes in a circle has its own answer at least as often as the other's: the same coin for one of them, 1 / 1,024 at 10
images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

CHANCE = 1e-3
MOST = 100  # classes that a Run holds
SHOWN = 3  # classes that a line names


@dataclass(frozen=True)
class Mistaken:
    """A class whose images a teacher takes for another, `times` of `images`; both by name."""

    own: str
    taken_for: str
    times: int
    images: int


def confusion_table(answers: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 [C, C]: how many images of class (row) are taken for class (column); answers, labels int64 [N]."""
    return torch.bincount(labels * classes + answers, minlength=classes**2).view(classes, classes)


def circles(table: torch.Tensor) -> list[tuple[int, ...]]:
    """The circles of at least two classes, each of whose images are in their majority taken for the next."""
    most, other = table.max(1)
    goes = {a: int(other[a]) for a in range(len(table)) if 2 * int(most[a]) > int(table[a].sum()) and int(other[a]) != a}
    rings, done = [], set[int]()
    for start in goes:
        path, at = [], start
        while at in goes and at not in done:
            done.add(at)
            path.append(at)
            at = goes[at]
        if at in path:
            rings.append(tuple(path[path.index(at) :]))
    return rings


def mistaken(table: torch.Tensor, class_names: Sequence[str]) -> list[Mistaken]:
    """The classes of a confusion_table that look swapped or permuted, circle by circle; [] where chance may have made them."""
    classes, rings = len(table), circles(table)
    chances = [math.prod(chance_of(table, a, b) for a, b in steps(ring)) for ring in rings]
    sure = [ring for ring, chance in zip(rings, chances, strict=True) if classes / len(ring) * chance < CHANCE]
    if math.comb(classes, sum(map(len, rings))) * math.prod(chances) < CHANCE:
        sure = rings
    pairs = [pair for ring in sure for pair in steps(ring)]
    return [Mistaken(class_names[a], class_names[b], int(table[a, b]), int(table[a].sum())) for a, b in pairs]


def steps(ring: Sequence[int]) -> list[tuple[int, int]]:
    """(class, the one that its images are taken for) of a circle."""
    return list(zip(ring, [*ring[1:], ring[0]], strict=True))


def chance_of(table: torch.Tensor, own: int, other: int) -> float:
    """The chance that a coin falls `other` as often as the images of class `own`, where it is either."""
    taken, right = int(table[own, other]), int(table[own, own])
    return sum(math.comb(taken + right, k) for k in range(taken, taken + right + 1)) / 2 ** (taken + right)


def in_words(confused: Sequence[Mistaken]) -> str:
    """What a person is told of them."""
    first = [f"of class {one.own} are taken for {one.taken_for} in {one.times} of {one.images}" for one in confused[:SHOWN]]
    return f"images {', '.join(first)}" + (f", and so on for {len(confused)} classes" if len(confused) > SHOWN else "")
