"""A learning-rate search as a Run states it, read strictly."""

import dataclasses
from collections.abc import Collection
from typing import Any

from rd3_utils.data import sources
from rd3_utils.scoring import runs, shapes
from rd3_utils.scoring.runs import RunImages
from rd3_utils.scoring.shapes import Refused, is_fraction, is_number, is_table, shown


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One learning rate of a search."""

    learning_rate: float = shapes.stated(is_number, "a finite number")
    top1: float | None = shapes.stated(shapes.or_none(is_fraction), "a fraction from 0 to 1 or null")


@dataclasses.dataclass(frozen=True)
class Search:
    """A learning-rate search as a Run states it."""

    learning_rate: float = shapes.stated(is_number, "a finite number")
    candidates: tuple[Candidate, ...] = shapes.part()
    images: RunImages = shapes.part()


def check_search(table: Any, rates: Collection[float], test_fingerprint: str) -> Search:
    """The Search that `table` states; Refused unless every rate of the grid is told and the best one on held-out images won."""
    where = "learning_rate_search"
    if not is_table(table) or table.get("learning_rate") not in rates:
        raise Refused("its protocol searches a learning rate, and it does not say which of the grid won")
    stated = shapes.read(Search, table, runs.SCHEMA, where)
    if sorted(one.learning_rate for one in stated.candidates) != sorted(rates):
        raise Refused(f"{where} tried other rates than its protocol's grid")
    finished = [one for one in stated.candidates if one.top1 is not None]
    if not finished:
        raise Refused(f"{where} has no candidate that finished")
    best = max(finished, key=lambda one: (one.top1, -one.learning_rate))
    if best.learning_rate != stated.learning_rate:
        raise Refused(f"{where} chose {stated.learning_rate:g}, and {best.learning_rate:g} scored best")
    if sources.recorded(stated.images.source).kind != "held-out" or stated.images.fingerprint == test_fingerprint:
        raise Refused(f"{where} was not scored on held-out train images")
    for one in finished:
        check_share(one.top1, stated.images.images, f"top1 of a candidate of {where}")
    return stated


def check_share(value: float, n: int, name: str) -> None:
    """Refused unless `value` is a share of n images."""
    if abs(value * n - round(value * n)) > 1e-3:
        raise Refused(f"{name} is {shown(value)}, which is no whole number of {n} images")
