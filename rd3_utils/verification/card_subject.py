"""Which Runs a card speaks of: those of its images and protocol with the seeds and draws that its report.json states."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from rd3_utils import bounded
from rd3_utils.bounded import Refused
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols.protocol import Protocol
from rd3_utils.publishing import card as cards
from rd3_utils.publishing import card_runs, student_repo
from rd3_utils.publishing.card import CardSubject
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run
from rd3_utils.scoring.shapes import is_count, is_table, is_whole
from rd3_utils.verification import vetting
from rd3_utils.verification.evidence import CardFiles

LOADED_FROM = re.compile(r'timm\.create_model\("hf-hub:([\w.-]+/[\w.-]+)"')
StatedArms = dict[tuple[str, str], tuple[int, frozenset[int], frozenset[int]]]  # (student, arm): n, seeds, draws


class NotRemade(Exception):
    """Why a card cannot be made again here."""


def stated_arms(report: Any) -> StatedArms:
    """The arms of a report.json; Refused where it states none, or one that cannot be."""
    table: Any = report.get("arms") if is_table(report) else None
    if not is_table(table) or not all(map(is_table, table.values())):
        raise Refused("it has no table of arms")
    arms = {}
    for student, mine in table.items():
        for arm, summary in mine.items():
            where = f"arms.{student}.{arm}"[:100]
            n: Any
            seeds: Any
            draws: Any
            n, seeds, draws = (summary.get(key) if is_table(summary) else None for key in ("n", "seeds", "draws"))
            lists = isinstance(seeds, list) and isinstance(draws, list) and all(map(is_whole, [*seeds, *draws]))
            if not is_count(n) or not lists:
                raise Refused(f"{where} lacks n, seeds or draws")
            if not len(set(seeds)) <= n <= len(set(seeds)) * max(1, len(set(draws))):
                raise Refused(f"{where} states {n} students of {len(seeds)} seeds and {len(draws)} draws")
            arms[student, arm] = n, frozenset(seeds), frozenset(draws)
    return arms


def subject_of(card: CardFiles, arms: StatedArms | None, is_cited: bool) -> tuple[CardSubject, list[str], int]:
    """(the CardSubject, what it lacks, how many further Runs belong to it), in the precision that fits `arms` best."""
    own = [file.run for file in card.runs if file.run]
    start = card.head.run if card.head else None
    if not own or (card.head and not start):
        raise NotRemade("no whole Run of it is here; give the folder with its Runs")
    precisions = sorted({run.environment.precision for run in ([start] if start else own)})
    tried, refused = [], ""
    for precision in precisions:
        try:
            tried.append(in_precision(card, [run for run in own if run.environment.precision == precision], arms, is_cited))
        except NotRemade as error:
            refused = str(error)
    if not tried:
        raise NotRemade(refused)
    return min(tried, key=lambda one: len(one[1]))


def in_precision(
    card: CardFiles, own: list[Run], arms: StatedArms | None, is_cited: bool
) -> tuple[CardSubject, list[str], int]:
    """The same for the Runs of one precision, of which `own` are on the card's images."""
    first = min(own, key=lambda run: (not run.arm.startswith("distilled-"), card_runs.identity(run)))
    start = card.head.run if card.head and card.head.run else first
    if start.benchmark not in benchmarks.names():
        raise NotRemade("this version does not have its benchmark")
    bench, precision = benchmarks.load(start.benchmark), start.environment.precision
    protocol = with_sources(start)
    ids = set(map(id, own))
    pool = [*own, *(run for run in card.pool if id(run) not in ids)]
    pool = sorted(
        (r for r in pool if (r.benchmark, r.environment.precision) == (bench.name, precision)), key=card_runs.identity
    )
    full_hard = "cited" if is_cited else "trained"
    mine, _ = card_runs.of_card(pool, own, (start.images.fingerprint, start.ipc), protocol, full_hard)
    mine = [run for run in mine if not card.head or run.student == start.student]
    chosen, lacking = chosen_runs(mine, arms)
    if not chosen:
        raise NotRemade(f"the Runs that it speaks of are not here ({'; '.join(lacking)[:200]})")
    options = TrainOptions(
        benchmark=bench.name, protocol=protocol.name, out=str(card.root or card.folder), full_hard=full_hard,
        distilled=start.images.source, set=tuple(f"{key}={value}" for key, value in start.protocol.overrides.items()),
    )  # fmt: skip
    head = next((run for run in chosen if run.arm == f"distilled-{protocol.main_labels}"), chosen[0])
    head = start if card.head else head
    if card.head:
        weights = student_repo.repo_weights_section(card.repo or stated_repo(card.folder), chosen, head)
    else:
        weights = cards.weights_section(chosen, head, card.folder, card.root or card.folder)
    subject = CardSubject(chosen, pool, head, weights, start.images, protocol, bench, options)
    students = {student for student, _ in arms or {}}
    return subject, lacking, sum(run.student in students for run in mine) - len(chosen) if arms and not lacking else 0


def chosen_runs(mine: list[Run], arms: StatedArms | None) -> tuple[list[Run], list[str]]:
    """(those of `mine` that `arms` state, [arms whose Runs are not here]); all of them where nothing is stated."""
    if arms is None:
        return mine, []
    chosen, lacking = [], []
    groups = run_files.grouped(mine, lambda run: (run.student, run.arm))
    for key, (n, seeds, draws) in arms.items():
        drawn = [r for r in groups.get(key, []) if r.seed in seeds and (not r.arm.startswith("random-") or r.draw in draws)]
        chosen += drawn if len(drawn) == n else []
        lacking += [] if len(drawn) == n else [f"{' '.join(key)[:60]}: {n} students stated, {len(drawn)} fit here"]
    return sorted(chosen, key=card_runs.identity), lacking


def with_sources(run: Run) -> Protocol:
    """The Protocol of `run`, with the sources of its knobs where it is a released one; Refused where its knobs are none."""
    protocol = vetting.stated_protocol(run)
    if not vetting.is_released(protocol.name):
        return protocol
    named = dataclasses.replace(vetting.released(protocol.name), overrides=protocol.overrides)
    return named if named.digest == protocol.digest else protocol


def stated_repo(folder: Path) -> str:
    """The repo that a pushed card says it is in."""
    try:
        match = LOADED_FROM.search(bounded.contents(folder / "README.md").decode())
    except (Refused, UnicodeDecodeError):
        match = None
    return match[1] if match else "OWNER/REPO"
