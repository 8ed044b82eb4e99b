"""leaderboard --rescore: networks that lie beside Runs are scored again before their rows are made.

A row is all Runs of one origin that measured the same. One whose weights score otherwise sets the whole row apart, with both
numbers; one without weights only says so, so that deleting them gains nothing. What weights scored is kept on this machine,
by the content of weights and test images: the same file is scored once, wherever it lies.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from accelerate.utils import tqdm
from huggingface_hub import constants

from rd3_utils import bounded, files, hub, limits, units
from rd3_utils.data.images import ImageSet
from rd3_utils.errors import UserError
from rd3_utils.leaderboard.entries import Gathering, Listed, Origin
from rd3_utils.leaderboard.reruns import same_result
from rd3_utils.learning import evaluation, students, weights
from rd3_utils.options import VerifyOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.scoring import measure, results
from rd3_utils.scoring.runs import Run
from rd3_utils.verification import rescoring, vetting, weight_claims
from rd3_utils.verification.at_hand import AtHand, NotAtHand
from rd3_utils.verification.rescoring import Misfit, Rescored, RightAnswers

KEPT = Path(constants.HF_HOME) / "rd3" / "rescored"


@dataclass(frozen=True)
class Rescorer:
    """Scores networks again with the real data that is at hand."""

    at_hand: AtHand

    def mark(self, gathering: Gathering) -> None:
        """Say of every Run of `gathering` whether its weights score what it states; set rows with one that does not apart."""
        origins = list(dict.fromkeys(one.origin for one in gathering.runs))
        heads = {origin: head_of(origin, gathering) for origin in origins if origin.kind == "hub"}
        marked: list[Listed] = []
        refuted: dict[tuple[Origin, str], tuple[Listed, str]] = {}
        for one in tqdm(gathering.runs, desc="scored again", unit="run", leave=False, disable=len(gathering.runs) < 20):
            verdict = self.verdict(one, heads.get(one.origin), gathering)
            marked.append(dataclasses.replace(one, rescored=verdict is True))
            if isinstance(verdict, str):
                refuted.setdefault(row_of(one), (one, verdict))
        for one in marked:
            if row_of(one) in refuted:
                false, verdict = refuted[row_of(one)]
                where = "" if one.path == false.path else f"in one row with {false.path}, of which is known: "
                stated = f"states {weight_claims.score_text(false.run)}"
                gathering.refuse(one.origin, one.path, f"{where}{stated}, and its weights {verdict}")
        gathering.runs = [one for one in marked if row_of(one) not in refuted]

    def verdict(self, one: Listed, head: tuple[str, Path] | None, gathering: Gathering) -> bool | str:
        """True: the weights score what the Run states; False: that cannot be said here; a text: what they score or are."""
        network = local_network(one) if one.origin.kind == "folder" else None
        if head is not None and same_result(one.run) == head[0]:
            network = head[1]
        try:
            benchmark, test = weight_claims.needed(one.run, network, self.at_hand)
            assert network is not None  # `needed` asks for it
            return judged(one.run, self.scored(one.run, network, test, benchmark))
        except NotAtHand:
            return False
        except (Misfit, UserError) as error:
            return f"are none of it: {error}"
        except Exception as error:  # one file cannot stop the board
            gathering.notes.append(f"{one.origin.name}: {one.path} cannot be scored again ({type(error).__name__}).")
            return False

    def scored(self, run: Run, network: Path, test: ImageSet, benchmark: Benchmark) -> Rescored:
        """The Rescored of a network: as it was kept, or made now and kept."""
        path = network / rescoring.WEIGHTS
        if not path.is_file() or path.stat().st_size > limits.MOST_WEIGHTS_BYTES:
            raise NotAtHand("its weights are no file, or too large")
        place = KEPT / f"{identity(run, path, test, benchmark, self.at_hand)}.json"
        known = kept_score(place)
        if known is None:
            known = rescoring.rescored(run, network, test, benchmark, self.at_hand.accelerator)
            files.write_whole(place, json.dumps(dataclasses.asdict(known)) + "\n", files.SET_HOME)
        return known


def rescorer(data_dirs: tuple[str, ...]) -> Rescorer:
    """The Rescorer with real data from `data_dirs` ([NAME=]DIR) or the Hub."""
    return Rescorer(AtHand(VerifyOptions("", data_dirs)))


def row_of(one: Listed) -> tuple[Origin, str]:
    """What Runs of one row share."""
    return one.origin, measure.kind(one.run)


def judged(run: Run, again: Rescored) -> bool | str:
    """Whether weights are and score what a Run states; a text says what they do instead."""
    if run.weights is not None and run.weights.sha256 != again.sha256:
        return f"have SHA-256 {again.sha256[:12]}, it states {run.weights.sha256[:12]}"
    return True if again.allows(run) else f"score {weight_claims.rescored_text(again)}"


def local_network(one: Listed) -> Path | None:
    """Where the network of a Run in a folder lies, if it is kept."""
    folder = results.student_folder(one.where) if one.where else None
    return folder if folder and students.is_saved(folder) else None


def head_of(origin: Origin, gathering: Gathering) -> tuple[str, Path] | None:
    """(the Run of the network that a repo holds, as `same_result` writes it; its folder), or None."""
    try:
        sizes = hub.sizes(origin.name, origin.commit)
        size = sizes.get(rescoring.WEIGHTS, 0)
        if size > limits.MOST_WEIGHTS_BYTES:
            most = units.size(limits.MOST_WEIGHTS_BYTES)
            gathering.notes.append(f"{origin.name}: its network of {units.size(size)} is not fetched, at most {most} are.")
            return None
        wanted = {rescoring.WEIGHTS, rescoring.CONFIG, weights.RUN}
        if not wanted <= sizes.keys() or sizes[rescoring.CONFIG] > limits.MOST_JSON_BYTES:
            return None
        path = hub.small_file(origin.name, origin.commit, weights.RUN, limits.MOST_JSON_BYTES)
        run = vetting.vetted(bounded.contents(path))[0] if path else None
        return (same_result(run), hub.network_folder(origin.name, origin.commit)) if run else None
    except (UserError, bounded.Refused) as error:
        gathering.notes.append(f"{origin.name}: its network cannot be scored again ({str(error)[:160]})")
        return None


# --- what was scored before


def identity(run: Run, path: Path, test: ImageSet, benchmark: Benchmark, at_hand: AtHand) -> str:
    """Hex SHA-256 over all that a score depends on: weights, test images, network, normalisation, precision, device, code."""
    code = [hashlib.sha256(Path(str(one.__file__)).read_bytes()).hexdigest() for one in (rescoring, evaluation, students)]
    facts = [
        hub.file_sha256(path), test.fingerprint, run.student, benchmark.name, benchmark.classes, str(benchmark.image),
        run.environment.precision, at_hand.accelerator.device.type, torch.__version__, timm.__version__, *code,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def kept_score(place: Path) -> Rescored | None:
    """The Rescored at `place`, or None."""
    try:
        table = json.loads(place.read_bytes())
        first, five = (RightAnswers(**table[key]) for key in ("first", "five"))
        return Rescored(str(table["sha256"]), int(table["images"]), first, five)
    except (OSError, ValueError, KeyError, TypeError):
        return None
