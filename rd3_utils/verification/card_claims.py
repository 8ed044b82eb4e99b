"""What a card says: README.md, its model-index, report.json and .eval_results, made again from the Runs that it speaks of.

What is made again is compared with what stands there. Another number is a contradiction; other words, missing and further
lines may be those of another version or its owner's, and are shown as not checkable. Which Runs a card speaks of, its
report.json says (seeds and draws of every arm): a Run that came later does not make it untrue, and is told.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rd3_utils import bounded, limits
from rd3_utils.bounded import Refused, plain_yaml, shown
from rd3_utils.errors import UserError
from rd3_utils.publishing import card as cards
from rd3_utils.publishing import student_repo
from rd3_utils.publishing.card import CardSubject
from rd3_utils.scoring import bootstrap
from rd3_utils.verification import command_claims, differences
from rd3_utils.verification.card_subject import NotRemade, StatedArms, stated_arms, subject_of
from rd3_utils.verification.checks import Check, confirmed, contradicted, unchecked
from rd3_utils.verification.differences import Difference
from rd3_utils.verification.evidence import CardFiles

HOW = "made again from its Runs"
OTHERWISE = "another version's, or its owner's: read it with care"
OUR_TAGS = ("benchmark-", "ipc-", "protocol-")


@dataclass(frozen=True, eq=False)
class Remade:
    """A card made again: its subject and report, what it could not be made of, and whether it counts as this version does."""

    subject: CardSubject
    report: dict
    lacking: tuple[str, ...]
    further: int
    same_intervals: bool

    @property
    def whole(self) -> bool:
        """Whether all numbers of the card can be made again."""
        return not self.lacking and self.same_intervals


def of_card(card: CardFiles) -> Iterator[Check]:
    """The Checks of one card."""
    places = {name: f"{card.name.removesuffix('README.md')}{name}" for name in ("README.md", "report.json")}
    try:
        stated = (
            bounded.parse(bounded.contents(card.folder / "report.json")) if (card.folder / "report.json").exists() else None
        )
        arms = None if stated is None else stated_arms(stated)
    except Refused as refused:
        yield contradicted(places["report.json"], "a report of Runs", "read strictly", str(refused))
        stated = arms = None
    try:
        made = remade(card, stated, arms)
    except (NotRemade, Refused, UserError) as error:
        place = card.name if (card.folder / "README.md").exists() else places["report.json"]
        yield unchecked(place, "numbers of the card", str(error))
        return
    if made.further:
        why = f"{made.further} more belong to it: they came later, or were left out; its command writes the card anew"
        yield unchecked(card.name, "speaks of all Runs that it should", why)
    for why in made.lacking:
        yield unchecked(card.name, "the Runs that it speaks of", f"{why}; give the folder of results that has them")
    if stated is not None:
        yield from of_report(places["report.json"], stated, made)
    if (card.folder / "README.md").exists():
        yield from of_readme(card, places["README.md"], made)
    for path in sorted((card.folder / ".eval_results").glob("*.yaml")):
        yield from of_eval_results(card, path.name, made)


def remade(card: CardFiles, stated: Any, arms: StatedArms | None) -> Remade:
    """The Remade of `card`, whose report.json is `stated` and speaks of `arms`; NotRemade says why there is none."""
    is_cited = bool(stated and stated.get("cited"))
    subject, lacking, further = subject_of(card, arms, is_cited)
    same = stated is None or (isinstance(stated.get("interval"), dict) and stated["interval"].get("method") == bootstrap.METHOD)
    return Remade(subject, cards.report_of(subject), tuple(lacking), further, same)


# --- report.json


def of_report(place: str, stated: dict, made: Remade) -> Iterator[Check]:
    """The Checks of a report.json, key by key."""
    report, theirs = dict(made.report), dict(stated)
    comparison, stated_comparison = report.pop("comparison"), theirs.pop("comparison", {})
    if made.lacking:
        theirs, report = comparable_parts(theirs, report)
    found_differences = list(differences.in_data(theirs, report))
    if not made.same_intervals:
        found_differences = [one for one in found_differences if one.at.rpartition(".")[2] not in ("low", "high")]
        yield unchecked(place, "intervals", "by another method than this version's; the version that made them can")
    arms = ", ".join(dict.fromkeys(arm for arms in made.report["arms"].values() for arm in arms))
    yield from of_differences(place, f"scores of {arms}", found_differences)
    yield from of_comparison(place, stated_comparison, comparison)


def comparable_parts(stated: dict, made: dict) -> tuple[dict, dict]:
    """Both reports without what rests on Runs that are not here."""
    made = {key: value for key, value in made.items() if key != "students"}
    scores, arms = {}, {}
    for student, mine in made["scores"].items():
        theirs = stated["scores"].get(student, {}) if isinstance(stated.get("scores"), dict) else {}
        same = [key for key in mine if isinstance(theirs.get(key), dict) and theirs[key].get("arms") == mine[key]["arms"]]
        scores[student] = ({key: theirs[key] for key in same}, {key: mine[key] for key in same})
    for student, mine in made["arms"].items():
        arms[student] = ({arm: stated["arms"][student][arm] for arm in mine}, mine)
    parts: Callable[[dict, int], dict] = lambda table, i: {key: pair[i] for key, pair in table.items()}  # noqa: E731
    ours = {**made, "scores": parts(scores, 1), "arms": parts(arms, 1)}
    return {**stated, "scores": parts(scores, 0), "arms": parts(arms, 0), "students": None}, {**ours, "students": None}


def of_comparison(place: str, stated: Any, made: dict) -> Iterator[Check]:
    """The Checks of recipe or data: its own half must be that of the Runs, the other half may have got more Runs since."""
    for student, ours in made.items():
        theirs = stated.get(student) if isinstance(stated, dict) else None
        claim = f"recipe or data, {student}"
        if theirs == ours:
            if ours:
                yield confirmed(place, claim, HOW)
            continue
        why = "Runs of another protocol are not here" if not ours else "Runs of another protocol came later"
        if theirs is None:
            yield unchecked(place, claim, why)
            continue
        try:
            yield arithmetic(place, claim, theirs, ours, why)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield contradicted(place, claim, HOW, f"malformed ({type(error).__name__})")


def arithmetic(place: str, claim: str, stated: dict, made: dict | None, why: str) -> Check:
    """The Check of a stated comparison that is not the one made here."""
    a, b = stated["protocols"]
    cells = stated["cells"]
    recipe = sum(cells[side][b] - cells[side][a] for side in cells) / len(cells)
    data = sum(cells["distilled"][p] - cells["random"][p] for p in (a, b)) / 2
    for key, value in (("recipe", recipe), ("data", data)):
        if abs(stated[key] - value) > 1e-9:
            return contradicted(place, f"{claim}: {key} {shown(stated[key])}", "computed from its cells", f"{value:.6g}")
    if made and made["protocols"] == stated["protocols"]:
        first = next(differences.in_data(stated, made), None)
        if first and first.kind == "number":
            why = f"{first.at} is {first.stated}, from the Runs here {first.made}: other Runs of another protocol, or untrue"
    return unchecked(place, claim, why)


# --- README.md


def of_readme(card: CardFiles, place: str, made: Remade) -> Iterator[Check]:
    """The Checks of a README.md: its front matter as data, its text line by line, its commands by what they say."""
    try:
        text = bounded.contents(card.folder / "README.md").decode()
        front, body = split(text)
        data = plain_yaml(front) if front else {}
    except (Refused, UnicodeDecodeError) as error:
        yield unchecked(place, "text and front matter", f"cannot be read ({str(error)[:100]})")
        return
    wanted_front, wanted = split(
        cards.card(made.subject, made.report, {"Scores": [], "Images and labels": [], "Learning curves": []})
    )
    yield from of_front_matter(place, data, plain_yaml(wanted_front), made)
    theirs, their_commands = lines_and_commands(body)
    ours, our_commands = lines_and_commands(wanted)
    if len(theirs) > limits.MOST_LINES:
        yield unchecked(place, "its text", f"{len(theirs)} lines, at most {limits.MOST_LINES} are compared")
        return
    found_differences = list(differences.in_lines(theirs, ours))
    if not made.whole:  # numbers may rest on Runs that are not here, or on other intervals
        found_differences = [
            Difference(d.at, "words", d.stated, d.made) if d.kind == "number" else d for d in found_differences
        ]
    yield from of_differences(place, f"{len(ours)} lines of text", found_differences)
    if not made.lacking:
        yield from command_claims.of_commands(place, their_commands, our_commands)


def split(text: str) -> tuple[str, str]:
    """(front matter, body) of a card."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    match = re.match(r"---\n(.*?)\n---[ \t]*(?:\n|$)", text, re.DOTALL)
    return (match[1], text[match.end() :]) if match else ("", text)


def lines_and_commands(body: str) -> tuple[list[str], list[str]]:
    """(lines that say something, without pictures; the commands under Reproduce)."""
    lines, commanded, under = [], [], ""
    for line in (line.rstrip() for line in body.split("\n")):
        if line.startswith("#"):
            under = line
        if under == "## Reproduce" and "train_student.py" in line:
            commanded.append(line)
        elif line and not line.startswith("!["):
            lines.append(line)
    return lines, commanded


def of_front_matter(place: str, stated: Any, made: dict, remade: Remade) -> Iterator[Check]:
    """The Checks of model-index and tags; what else stands there is its owner's."""
    if not isinstance(stated, dict):
        yield unchecked(place, "front matter", "is no table")
        return
    if "model-index" not in stated:
        yield unchecked(place, "model-index", f"there is none; {OTHERWISE}")
    else:
        found_differences = differences.in_data(stated["model-index"], made["model-index"])
        yield from of_differences(place, "model-index", found_differences)
    tags: list = stated["tags"] if isinstance(stated.get("tags"), list) else []
    strange = [tag for tag in tags if str(tag).startswith(OUR_TAGS) and tag not in made["tags"]]
    if strange:
        ours = ", ".join(tag for tag in made["tags"] if tag.startswith(OUR_TAGS))
        yield contradicted(place, f"tag {shown(strange[0])}", HOW, ours)


# --- .eval_results


def of_eval_results(card: CardFiles, name: str, made: Remade) -> Iterator[Check]:
    """The Checks of one file of .eval_results."""
    place, head = f".eval_results/{name}", made.subject.head
    wanted_name, text = student_repo.eval_result(card.repo or "OWNER/REPO", made.report, head, made.subject.benchmark)
    try:
        stated = plain_yaml(bounded.contents(card.folder / ".eval_results" / name).decode())
    except (Refused, UnicodeDecodeError) as error:
        yield contradicted(place, "a score in percent", "read strictly", str(error)[:100])
        return
    if name != f"{wanted_name}.yaml":
        yield unchecked(place, f"another task than that of its Runs, {wanted_name}", OTHERWISE)
        return
    ours = plain_yaml(text)
    if isinstance(stated, list) and stated and isinstance(stated[0], dict):
        for one in (stated[0], ours[0]):
            one.pop("source", None)  # where it was pushed to
    yield from of_differences(place, "top-1 in percent", differences.in_data(stated, ours))


# --- of all


def of_differences(place: str, claim: str, several: Iterable[Difference]) -> Iterator[Check]:
    """One Check of all other numbers, one of what is worded otherwise, else one that all is as made."""
    found_differences = list(several)
    numbers = [one for one in found_differences if one.kind == "number"]
    words = [one for one in found_differences if one.kind != "number"]
    if numbers:
        first, more = numbers[0], f"; {len(numbers) - 1} more differ" if len(numbers) > 1 else ""
        at = f"{first.at} " if first.at else ""
        yield contradicted(place, f"{claim}: {at}{first.stated}", HOW, f"{first.made}{more}")
    if words:
        first = words[0]
        said = {"words": f"says {first.stated}, this version {first.made}", "not stated": f"lacks {first.made}",
                "only stated": f"not made from Runs: {first.stated}"}[first.kind]  # fmt: skip
        more = f"; {len(words) - 1} more" if len(words) > 1 else ""
        yield unchecked(place, f"{claim}: what differs in words", f"{first.at} {said}{more}: {OTHERWISE}".strip(), HOW)
    elif not numbers:
        yield confirmed(place, claim, HOW)
