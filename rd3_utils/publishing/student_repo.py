"""A student on the Hub: one network in timm's layout, its card, its scores and the Runs behind them, in one commit.

    config.json, model.safetensors   the first seed of the headline arm: timm.create_model("hf-hub:OWNER/REPO", pretrained=True)
    run.json                         the Run of that network
    README.md, report.json, plots/   the card of this student
    .eval_results/<benchmark>-ipc<N>-<protocol>.yaml
    runs/                            the Run files, laid out as in a folder of results

Pushing again replaces all of it: what does not belong any more is removed in the same commit.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import EvalResultEntry, constants, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from rd3_utils import bounded, command_lines, hub, launch, pushing, units
from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.data import datacards, sources
from rd3_utils.errors import TagTaken, UserError
from rd3_utils.options import TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.publishing import card, card_runs
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results, card_folder, student_folder
from rd3_utils.scoring.runs import Run
from rd3_utils.text import escape

OURS = ("runs/", "plots/", ".eval_results/")  # folders of the repo that hold nothing but what is pushed here


def check_push(
    target: pushing.Target, cells: list[PlannedRun], options: TrainOptions, precision: str, accelerator: Accelerator
) -> PlannedRun:
    """The cell whose network is to be pushed to `target`; UserError, in every process and before any work, if none may be.

    It is the first seed of the protocol's own distilled arm, else of another distilled arm, else of full-hard: never the
    best seed, never random images.
    """
    first = [cell for cell in cells if cell.seed == options.seeds[0] and not cell.arm.startswith("random-")]
    students = list(dict.fromkeys(cell.student for cell in cells))
    if len(students) > 1:
        raise UserError(
            f"a repo holds one network, this command trains {len(students)} ({', '.join(students)}); push each with a "
            "command and a repo of its own."
        )
    if not first:
        raise UserError("students of random images are not pushed; add a distilled arm to --arms, or leave out --push-to.")
    cell = min(first, key=lambda cell: (cell.arm == "full-hard", cell.arm != f"distilled-{cell.protocol.main_labels}"))
    if cell.images.origin.draw:
        raise UserError(
            f"{cell.images.name} are random real images, and students of those are not pushed as weights; leave out --push-to."
        )
    if not cell.keeps_weights:
        raise UserError(f"{cell.protocol.label} whitens the images: nobody could use the network without the matrix.")
    run = cell.path(options.out, precision)
    if run.is_file() and not (student_folder(run) / "config.json").is_file():
        raise UserError(
            f"{run} is there already, but not the network: it was not the first of its --seeds; give the --seeds of the "
            "first command, or another --out."
        )

    def ask() -> None:
        missing = any(not cell.path(options.out, precision).is_file() for cell in cells)
        about = pushing.may_push(target, missing) if accelerator.is_main_process else None
        strange = [f.rfilename for f in about.siblings if f.rfilename not in (".gitattributes", "README.md")] if about else []
        if about and strange and "rd3" not in about.tags:
            raise UserError(
                f"{target.repo} holds something else already ({strange[0]}, and no tag rd3 on its card); give the name of a "
                "new repo."
            )

    launch.raise_on_all(accelerator, ask)
    return cell


def kept_runs(cells: list[PlannedRun], options: TrainOptions, precision: str) -> list[Run]:
    """The Runs of all `cells`, for --push-only; UserError unless every one is there."""
    runs = {cell: run_files.kept(cell.path(options.out, precision)) for cell in cells}
    kept = {cell: run for cell, run in runs.items() if run is not None}
    missing = [cell for cell in cells if cell not in kept]
    if missing:
        raise UserError(
            f"--push-only trains nothing, and {len(missing)} of {len(cells)} runs are not there, the first at "
            f"{missing[0].path(options.out, precision)}; leave --push-only out to train them."
        )
    for cell, run in kept.items():
        if run.views_seed != cell.views_seed:
            raise UserError(
                f"{cell.path(options.out, precision)} learned from views of seed {run.views_seed}, this command has "
                f"{cell.views_seed}; give the --views-seed of the first command."
            )
    return list(kept.values())


@dataclass(frozen=True, eq=False)
class StudentUpload:
    """A student on its way to `target`: the one of `cell`, whose network the repo holds, among the `cells` of its command."""

    target: pushing.Target
    cell: PlannedRun
    cells: list[PlannedRun]
    benchmark: Benchmark
    options: TrainOptions
    precision: str

    @property
    def path(self) -> Path:
        """Where the Run of that network lies."""
        return self.cell.path(self.options.out, self.precision)


def prepared(
    target: pushing.Target,
    cells: list[PlannedRun],
    benchmark: Benchmark,
    options: TrainOptions,
    precision: str,
    accelerator: Accelerator,
) -> Callable[[list[Run]], None]:
    """`check_push`, before any work; the function that is returned pushes what was trained."""
    cell = check_push(target, cells, options, precision, accelerator)
    upload = StudentUpload(target, cell, cells, benchmark, options, precision)
    return lambda finished: push_student(upload, finished)


def push_student(upload: StudentUpload, finished: list[Run]) -> None:
    """Push the student of `upload` with what belongs to it; for the main process, after the card is written.

    Needs nothing but files that are there. If it fails, the UserError ends with the command that tries again.
    """
    target, cell = upload.target, upload.cell
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = repo_files(upload, finished, Path(folder))
            text = files["README.md"]
            assert isinstance(text, bytes)
            size = sum(len(f) if isinstance(f, bytes) else f.stat().st_size for f in files.values())
            print(f"pushing {len(files)} files, {units.size(size)}, to {target.url}", flush=True)

            def build(commit: str, there: dict[str, Any]) -> dict[str, Path | bytes | None]:
                stale = {path: None for path in there if path.startswith(OURS) and path not in files}
                return {**files, **stale, "README.md": with_licence(text, target, commit, there)}

            run = run_files.read(upload.path)
            message = f"{cell.student}, {cell.arm} of {cell.images.name}, {reports.protocol_text(run)}"
            pushed = pushing.push(target, build, message)
    except Exception as error:
        said, other_tag = str(error) if isinstance(error, UserError) else hub.one_line(error), isinstance(error, TagTaken)
        again = command_lines.repeated(sys.argv, "--push-only", precision=upload.precision, other_tag=other_tag)
        raise UserError(f"{said} Nothing is lost: {upload.options.out} keeps the results. Push them with: {again}") from error
    pushing.say(pushed)


def repo_files(upload: StudentUpload, finished: list[Run], folder: Path) -> dict[str, Path | bytes]:
    """{path in the repo: local path or bytes} of everything but old files; the card is written to the empty `folder`."""
    target, cell, benchmark, options = upload.target, upload.cell, upload.benchmark, upload.options
    runs, related, _ = card_runs.gathered_runs(finished, cell, options)
    runs = [run for run in runs if run.student == cell.student]
    network, head = student_folder(upload.path), run_files.read(upload.path)
    (folder / "plots").mkdir()
    drawn = card_folder(upload.path) / "plots"
    for picture in drawn.glob("views_*.png"):  # the others are drawn anew, for this student alone
        shutil.copyfile(picture, folder / "plots" / picture.name)
    weights = repo_weights_section(target.repo, runs, head)
    subject = card.CardSubject(runs, related, head, weights, head.images, cell.protocol, benchmark, options)
    report, pictures = card.write_card(folder, subject, cell, upload.cells, {})
    shown = [folder / name for section in pictures.values() for name, _ in section]
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in (folder / "report.json", *shown)}
    files["README.md"] = (folder / "README.md").read_bytes()
    files |= {name: network / name for name in ("config.json", "model.safetensors")}
    files["run.json"] = upload.path
    for run in runs:
        path = Results(options.out).path_of(run)
        files[f"runs/{path.relative_to(options.out).as_posix()}"] = path
    name, text = eval_result(target.repo, report, head, benchmark)
    files[f".eval_results/{name}.yaml"] = text.encode()
    return files


def repo_weights_section(repo: str, runs: list[Run], head: Run) -> list[str]:
    """Which network the repo holds and what it scores beside the mean, and how to load it."""
    same = [run.top1 for run in runs if run.arm == head.arm]
    text = (
        f"The weights in this repo are those of seed {head.seed}, the first of its command, after the last epoch and "
        f"whatever its score: top-1 {reports.percent(head.top1)} % of the {head.images_scored} test images."
    )
    if len(same) > 1:
        text += (
            f" The mean over all {len(same)} students of {head.arm} is {reports.percent(sum(same) / len(same))} %, the "
            f"standard deviation {reports.percent(run_files.spread(same))}."
        )
    text += " The front matter holds top-1 as a fraction, .eval_results the same in percent."
    return ["## Weights", escape(text), card.how_to_load(sources.pushed(repo))]


def eval_result(repo: str, report: dict, head: Run, benchmark: Benchmark) -> tuple[str, str]:
    """(name, text) of the file in .eval_results: the mean top-1 in percent under a task of this protocol and IPC.

    A benchmark that is not on the Hub goes by its name alone.
    """
    summary, protocol = report["arms"][head.student][head.arm], head.protocol
    custom = f"-custom-{protocol.digest}" if protocol.overrides else ""
    task = f"{benchmark.name}-ipc{head.ipc}-{protocol.name}{custom}"
    seeds = ", ".join(map(str, summary["seeds"]))
    notes = f"mean top-1 in % of {summary['n']} students ({head.student}, {head.arm}, seeds {seeds})"
    if summary["std"] is not None:
        notes += f", standard deviation {reports.percent(summary['std'])}"
    entry = EvalResultEntry(
        dataset_id=benchmark.data.repo if benchmark.data.on_hub else benchmark.name,
        task_id=task,
        value=round(100 * summary["mean"], 4),
        dataset_revision=head.test.commit,
        source_url=f"{constants.ENDPOINT}/{repo}",
        source_name="card with all runs",
        notes=notes,
    )
    return re.sub(r"[^\w.-]", "-", task), yaml_dump(eval_result_entries_to_yaml([entry]))


def with_licence(text: bytes, target: pushing.Target, commit: str, there: dict[str, Any]) -> bytes:
    """The card `text` with the licence that the owner stated on the card that is there, if any."""
    if "README.md" not in there:
        return text
    try:
        stated = datacards.front_matter(pushing.text(target, commit, "README.md")).table
    except bounded.Refused as refused:
        raise UserError(
            f"README.md of {target.repo} states its licence where it cannot be read ({refused}); mend it."
        ) from refused
    stated = {key: value for key, value in stated.items() if str(key).startswith("license")}
    if not stated:
        return text
    front = yaml_dump(stated).encode()
    return text.replace(b"---\n", b"---\n" + front, 1)
