"""Which entries belong together: the other arms of a row's image set, and the scores that they allow."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

from rd3_utils.leaderboard.entries import Entry, Group
from rd3_utils.scoring import estimates
from rd3_utils.scoring import report as reports
from rd3_utils.verification import vetting


class Related:
    """Finds, for an entry, the arms that belong to it: each look-up takes the same time however many entries there are."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.known: dict[tuple, Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.origin):
            for key in itertools.product((entry.teachers, None), (entry.views_seed, None), (entry.origin, None)):
                self.known.setdefault((*place_of(entry.group, entry.arm, entry), *key), entry)  # of several origins the first

    def of(self, entry: Entry, arm: str) -> Entry | None:
        """The Entry of `arm` that shares all but its images with `entry`, from the same origin if there is one; or None.

        Of distilled arms it is the one with the same images. Where both have teachers, they are the same; where both have
        labels of one kind, so is the seed of their views.
        """
        labels = arm.partition("-")[2]
        group = replace(entry.group, labels=labels)
        place = place_of(group, arm, entry)
        alike = labels == entry.group.labels and not group.full and not arm.startswith("full")
        views_seed = entry.views_seed if alike else None
        for teachers in (entry.teachers, ()) if entry.teachers else (None,):
            for origin in (entry.origin, None):
                if (*place, teachers, views_seed, origin) in self.known:
                    return self.known[*place, teachers, views_seed, origin]
        return None

    def scores(self, entry: Entry) -> tuple[dict[str, dict], dict[str, Entry]]:
        """(estimates.of_scores, {arm: Entry}): what the arms of `entry`'s image set allow, and those arms.

        Without a measured full-hard, the accuracy that the benchmark cites for this student takes its place.
        """
        arms = {entry.arm: entry}
        for arm in reports.ORDER:
            like = next((other for other in arms.values() if other.group.labels == arm.partition("-")[2]), entry)
            if arm not in arms and (other := self.of(like, arm)) is not None:
                arms[arm] = other
        cited = None
        if "full-hard" not in arms:
            full = vetting.bench_of(entry.group.benchmark).full_data
            cited = next((one for one in full if one.student == entry.group.student), None)
        return estimates.of_scores({arm: list(other.runs) for arm, other in arms.items()}, cited), arms


def place_of(group: Group, arm: str, entry: Entry) -> tuple:
    """What `arm` of the images of `entry` must share to be comparable."""
    side = arm.partition("-")[0]
    if side == "full":
        return group.benchmark, group.student, group.precision, arm, None
    return group, arm, None if side == "random" else entry.fingerprints
