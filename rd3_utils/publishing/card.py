"""The card: README.md, report.json and plots/ beside the results of one image set under one protocol.

A card speaks of every Run under --out that belongs to it, whichever command trained it, and of nothing else: no day, no
machine that only writes it. The terminal says the same in short. Accuracies are fractions in report.json and the front
matter, percent in the text.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

from rd3_utils import files
from rd3_utils.arms.planned_runs import PlannedRun, citations
from rd3_utils.data import overlap, sources
from rd3_utils.data.sources import NetworkSource
from rd3_utils.learning import confusion
from rd3_utils.options import TrainOptions
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import NEUTRAL, SECTIONS
from rd3_utils.protocols.protocol import Protocol
from rd3_utils.publishing import card_runs, plots, terminal
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results, card_folder, student_folder
from rd3_utils.scoring.runs import Run, RunImages
from rd3_utils.text import escape, fenced, listed, show, table
from rd3_utils.transfer import report as transfer_report

IMAGES = {"distilled": "distilled images", "random": "random real images", "full": "real training images"}
LABEL_KINDS = {
    "soft": "the soft labels of a teacher",
    "hard": "their classes as labels",
    "plain": "one teacher label per image and no augmentation",
    "static": "one teacher label per image",
    "imported": "soft labels that were imported from another tool",
    "learned": "the labels that come with them",
}


@dataclass(frozen=True, eq=False)
class CardSubject:
    """What a card speaks of: the `runs` of one image set under one protocol, and the options that led to them.

    The title and the front matter speak of the arm of the Run `head`; `related` are all Runs of its benchmark and precision, to
    compare; `weights` are the Markdown parts on the network of `head`.
    """

    runs: list[Run]
    related: list[Run]
    head: Run
    weights: list[str]
    images: RunImages
    protocol: Protocol
    benchmark: Benchmark
    options: TrainOptions


def publish_cards(
    finished: list[Run],
    cells: list[PlannedRun],
    labels: dict[tuple, Any],
    benchmark: Benchmark,
    protocol: Protocol,
    options: TrainOptions,
) -> None:
    """Write the card of this command's images and print its scores; for the main process only.

    `finished` are the Runs of `cells`, `labels` {labels_key: reader}. The images are those of the first distilled arm,
    else of the first arm.
    """
    cell = next((cell for cell in cells if cell.arm.startswith("distilled-")), cells[0])
    folder = card_folder(Results(options.out).path_of(finished[cells.index(cell)]))
    runs, related, left_out = card_runs.gathered_runs(finished, cell, options)
    for line in left_out:
        print(line, file=sys.stderr)
    main = f"distilled-{cell.protocol.main_labels}"
    head = next((run for run in runs if run.arm == main), runs[0])  # its arm stands in the title
    weights = weights_section(runs, head, folder, options.out)
    subject = CardSubject(runs, related, head, weights, stated_images(runs, cell), cell.protocol, benchmark, options)
    report, pictures = write_card(folder, subject, cell, cells, labels)
    kind = "hard" if protocol.label_kind == "learned" else protocol.main_labels  # that random images can have, too
    terminal.say(report, cell, folder, pictures, terminal.tips(report, benchmark, kind))


def stated_images(runs: list[Run], cell: PlannedRun) -> RunImages:
    """The image set of `cell` as one of `runs` states it."""
    return next(run.images for run in runs if run.images.fingerprint == cell.images.fingerprint)


def write_card(
    folder: Path, subject: CardSubject, cell: PlannedRun, cells: list[PlannedRun], labels: dict[tuple, Any]
) -> tuple[dict, dict[str, list[tuple[str, str]]]]:
    """Write README.md, report.json and plots/ of `subject`, the images of `cell`, into `folder`; (Report, pictures).

    Views are drawn of those `cells` whose reader `labels` {labels_key: reader} has.
    """
    report = report_of(subject)
    pictures = draw_pictures(subject.runs, report, cell, cells, labels, folder)
    text = card(subject, report, pictures)
    files.write_whole(folder / "report.json", f"{json.dumps(report, indent=1, allow_nan=False)}\n")
    files.write_whole(folder / "README.md", text)
    return report, pictures


def report_of(subject: CardSubject) -> dict:
    """What report.json holds. With --full-hard cited, published full-data accuracies take the place of full-hard Runs."""
    runs, cited = subject.runs, {}
    if subject.options.full_hard == "cited":
        by_student = citations(subject.benchmark, {run.student for run in runs})
        cited = {student: known for student, known in by_student.items() if known}  # none of others' Runs that lie here, maybe
    return reports.report(runs, subject.related, cited)


def draw_pictures(
    runs: list[Run], report: dict, cell: PlannedRun, cells: list[PlannedRun], labels: dict[tuple, Any], folder: Path
) -> dict[str, list[tuple[str, str]]]:
    """Draw all pictures; {title: [(file below `folder`, caption)]} with those of earlier commands that still belong.

    Views are drawn where `labels` has them.
    """
    pictures: dict[str, list[tuple[str, str]]] = {"Scores": [("plots/scores.png", "top-1 of every arm")], "Learning curves": []}
    plots.scores(report, runs, folder / "plots/scores.png")
    for student in report["arms"]:
        name = f"plots/learning_curves_{student}.png"
        plots.learning_curves([run for run in runs if run.student == student], folder / name)
        pictures["Learning curves"].append((name, f"training loss and learning rate of {student}"))
    pictures["Images and labels"] = [("plots/images.png", f"images of {cell.images.name}")]
    plots.image_grid(cell.images, folder / "plots/images.png")
    for arm in dict.fromkeys(r.arm for r in runs if r.images.fingerprint == cell.images.fingerprint):
        name = f"plots/views_{arm}.png"
        mine = next((c for c in cells if c.arm == arm and c.images.fingerprint == cell.images.fingerprint), None)
        if mine and mine.labels_key in labels:
            views, logits = labels[mine.labels_key].epoch(0)
            plots.view_grid(mine.images, views, logits, mine.recipe, folder / name)
        if (folder / name).is_file():
            pictures["Images and labels"].append((name, f"views and labels of {arm}"))
    return pictures


def card(subject: CardSubject, report: dict, pictures: dict[str, list[tuple[str, str]]]) -> str:
    """The text of README.md: front matter and body."""
    runs, head, protocol, benchmark = subject.runs, subject.head, subject.protocol, subject.benchmark
    top1 = reports.percent(report["arms"][head.student][head.arm]["mean"])
    title = f"{subject.images.name} under {reports.protocol_text(head)}: {top1} % top-1 ({head.student})"
    embedded = {
        key: "\n\n".join(f"![{escape(caption)}]({quote(name)})" for name, caption in drawn) for key, drawn in pictures.items()
    }
    parts = [
        f"---\n{front_matter(subject, report).to_yaml()}\n---",
        f"# {escape(title)}",
        *(escape(result(arms, student, head, benchmark)) for student, arms in report["arms"].items()),
        *(f"> **{escape(text)}**" for text in banners(runs, protocol)),
        *score_section(report),
        embedded["Scores"],
        *comparison_section(report),
        *transfer_report.section(runs, subject.options.out),
        *("## Images and labels", embedded["Images and labels"], "## Learning curves", embedded["Learning curves"]),
        *protocol_section(runs, head, protocol, benchmark),
        *provenance_section(runs),
        "## Reproduce",
        fenced("\n".join(terminal.commands(runs, subject.options, benchmark)), "bash"),
        *subject.weights,
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(subject: CardSubject, report: dict) -> ModelCardData:
    """The ModelCardData: the headline arm's mean top-1 as a fraction. It names no base model and no licence."""
    head, images, benchmark = subject.head, subject.images, subject.benchmark
    data, several, arm = benchmark.data, len(report["arms"]) > 1, head.arm
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data.repo if data.on_hub else benchmark.name,
            dataset_name=benchmark.title,
            dataset_config=data.config,
            dataset_split=data.test,
            dataset_revision=head.test.commit,
            metric_type="accuracy",
            metric_name=f"top-1, mean over {arms[arm]['n']} students{f' ({student})' if several else ''}",
            metric_value=arms[arm]["mean"],
        )
        for student, arms in report["arms"].items()
        if arm in arms
    ]
    custom = "custom-" if subject.protocol.overrides else ""
    tags = ["rd3", *(["dataset-distillation"] if is_distilled(head) else []), f"benchmark-{benchmark.name}"]
    tags += [f"ipc-{images.ipc}"] if images.ipc else []
    learned_from = images.origin.repo or (data.repo if images.origin.is_selection and data.on_hub else None)
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=[*tags, f"protocol-{custom}{subject.protocol.name}"],
        datasets=[learned_from] if learned_from else None,
        model_name=f"{images.name} under {reports.protocol_text(head)}",
        eval_results=results,
    )


def is_distilled(run: Run) -> bool:
    """Whether the images of a Run were made to be distilled ones; real images may be given as --distilled, too."""
    return run.arm.startswith("distilled-") and not run.images.origin.is_selection


def result(arms: dict[str, dict], student: str, head: Run, benchmark: Benchmark) -> str:
    """One sentence for a reader who knows nothing of arms."""
    arm, images = head.arm, head.images
    if arm not in arms:
        return f"{student}: no run of {arm} yet."
    side, labels = arm.split("-")
    side = "random" if side == "distilled" and not is_distilled(head) else side
    labels = head.labels.kind if labels == "soft" else labels
    s, other = arms[arm], arms.get(arm.replace("distilled", "random"))
    spread = f"mean of {s['n']}, standard deviation {reports.percent(s['std'])}" if s["n"] > 1 else "one student"
    text = (
        f"{images.name}: a {student} trained from scratch on nothing but {images.images} {IMAGES[side]}, with "
        f"{LABEL_KINDS[labels]}, gets {reports.percent(s['mean'])} % of the {head.images_scored} test images of "
        f"{benchmark.title} right ({spread})."
    )
    if side == "distilled" and other:
        text += f" As many random real images, same recipe: {reports.percent(other['mean'])} %."
    return text


def banners(runs: list[Run], protocol: Protocol) -> list[str]:
    """What a reader must know before reading a number."""
    warnings = []
    if protocol.overrides:
        warnings.append(f"The protocol is {protocol.label}: do not compare with results under {protocol.name}.")
    if any(run.monitored_test for run in runs):
        warnings.append("The test split was watched during training; scores are still the last epoch's.")
    checked = {run.images.name: run.images.checks for run in runs if run.images.checks}
    for name, checks in checked.items():
        warnings += [f"{name}: {text}." for text in overlap.in_words(dataclasses.asdict(checks))]
    if any(run.labels.kind == "imported" for run in runs):
        warnings.append("The soft labels of these runs are imported: another tool made them and their views, which the recipe "
                        "did not draw; do not compare with labels made here.")  # fmt: skip
    precision = runs[0].environment.precision
    if precision != "fp32":
        warnings.append(f"Students were trained in {precision}: do not compare with fp32 results.")
    if len({run.teacher_weights for run in runs if run.teachers}) > 1:
        warnings.append("The soft labels of these runs come from different teachers; see the table of runs.")
    strange = {
        run.images.name: run.labels.recognised
        for run in runs
        if run.labels.recognised is not None and run.labels.recognised < 0.5
    }
    for name, share in strange.items():
        warnings.append(f"The teacher puts only {reports.percent(share)} % of the images of {name} into their own class: its "
                        "soft labels speak of others.")  # fmt: skip
    swapped = {run.images.name: run.labels.mistaken for run in runs if run.labels.mistaken}
    for name, classes in swapped.items():
        text = confusion.in_words([confusion.Mistaken(**dataclasses.asdict(one)) for one in classes])
        warnings.append(f"{name}: classes look swapped to the teacher: {text}.")
    if len({run.views_seed for run in runs}) > 1:
        warnings.append("The views of these runs were drawn from different seeds.")
    return warnings


def score_section(report: dict) -> list[str]:
    """The table of every student, the scores it allows, each with its meaning, and students side by side."""
    parts = ["## Scores"]
    for student, arms in report["arms"].items():
        of_student = {"arms": {student: arms}, "cited": report["cited"]}
        parts += [f"**{escape(student)}**", table([row[1:] for row in reports.scores_table(of_student)])]
        named = reports.named_scores(report["scores"][student])
        parts += [escape(text) for text in reports.score_sentences(report, student)]
        parts += [table([["score", "value", "95 % interval", "std", "n", "what it is"], *named])] if named else []
        for place, (top1, source) in enumerate(reports.cited_sentences(report, student)):
            also = "Others cite" if place else "full-hard is cited, not trained here, and no interval covers it:"
            parts.append(escape(f"{also} {reports.percent(top1)} %, {source}."))
    parts.append(
        "Top-1 of the last epoch on the whole test split; std is the sample standard deviation over all n students of "
        "an arm. Random images are drawn several times: std over seeds is within a draw, std over draws between the "
        "draws' means. A score is that of the mean accuracies; its std is over n runs, each a seed with a draw of random "
        f"images. Intervals: {report['interval']['method']} ({report['interval']['resamples']:,} resamples, fixed "
        "generator); of three students they hold the true mean about 4 of 5 times, of ten 9 of 10."
    )
    if report["students"]:
        parts += ["### Across students", table(reports.students_table(report))]
        parts.append("Top-1 % of each arm and, in brackets, points below its best student.")
    return parts


def comparison_section(report: dict) -> list[str]:
    """Recipe or data: the table images x protocols, in percent."""
    parts: list[str] = []
    for student, comparison in report["comparison"].items():
        if not comparison:
            continue
        (a, b), cells = comparison["protocols"], comparison["cells"]
        rows = [[student, a, b, f"points from {a} to {b}"]]
        for side, top1 in cells.items():
            percents = reports.percent(top1[a]), reports.percent(top1[b])
            rows.append([f"{side} images", *percents, reports.points(top1[b] - top1[a])])
        gains = [reports.points(cells["distilled"][p] - cells["random"][p]) for p in (a, b)]
        parts += [escape(reports.sentence(comparison)), table([*rows, ["points from random to distilled", *gains, ""]])]
    return ["## Recipe or data?", *parts] if parts else []


def protocol_section(runs: list[Run], head: Run, protocol: Protocol, benchmark: Benchmark) -> list[str]:
    """Every knob of the headline arm's recipe with its source, and what other arms change."""
    recipe, labels = flat(head.recipe), head.labels_of_arm
    rules = protocol.matching(benchmark, head.student, head.ipc)
    rows = [[key, value, source_of(key, labels, protocol, benchmark, rules)] for key, value in recipe.items()]
    changed = []
    for run in {(run.student, run.arm): run for run in reversed(runs)}.values():
        mine = flat(run.recipe)
        changes = [f"{key} = {show(mine.get(key, NEUTRAL.get(key)))}" for key in {**mine, **recipe}
                   if mine.get(key) != recipe.get(key)]  # fmt: skip
        if run.protocol.digest != head.protocol.digest:
            changes = [f"all of {run.protocol.name}, digest {run.protocol.digest}"]
        if changes:
            text = f"{run.student}, {run.arm} has instead: {', '.join(changes)}"
            changed.append(f"- {escape(text)}")
    intro = f"{protocol.label}, digest {protocol.digest}: {protocol.title}. For {head.student}, {head.arm}:"
    parts = ["## Protocol", escape(intro), table([["knob", "value", "source"], *rows])]
    return parts + (["\n".join(sorted(changed))] if changed else [])


def flat(recipe: dict) -> dict[str, Any]:
    """{"section.field": value} of a Run's recipe."""
    return {f"{section}.{key}": value for section in SECTIONS for key, value in recipe[section].items()}


def source_of(key: str, labels: str, protocol: Protocol, benchmark: Benchmark, rules: Iterable[dict]) -> str:
    """Where a resolved value comes from: the strongest that spoke, then the protocol's own words; of `rules`, the last."""
    by_rule = [rule["source"] for rule in rules if key in rule["set"] and "source" in rule]
    stated = [protocol.sources.get(key, "not used by the protocol"), *by_rule][-1]
    if key == "views.flip" and not benchmark.image.mirror:
        return f"{benchmark.name} forbids mirror images; else {stated}"
    if key == "views.dsa" and not benchmark.image.mirror:
        return f"{benchmark.name} forbids mirror images: without flip; else {protocol.sources.get(key, 'changed with --set')}"
    if key in protocol.arms[labels]:
        return f"what the protocol states for {labels} labels"
    return f"changed with --set; else {stated}" if key in dict(protocol.overrides) else stated


def provenance_section(runs: list[Run]) -> list[str]:
    """Which runs, images, labels, teachers and machines."""
    arms: list[list] = [["student", "arm", "images", "labels", "seeds", "optimizer steps", "seconds per student"]]
    images: list[list] = [["images", "source", "commit", "fingerprint", "number", "per class"]]
    labels: list[list] = [["images", "labels", "epochs", "bytes", "stored as", "views per teacher pass", "made on", "from",
                           "commit", "recognised %"]]  # fmt: skip
    teachers: list[list] = [["teacher", "architecture", "commit", "SHA-256 of the weights", "top-1 %"]]
    machines: list[list] = [["environment", ""]]
    for key, mine in run_files.grouped(runs, lambda run: (run.student, run.arm, run.images.name)).items():
        steps, seconds = (run.recipe["steps"] for run in mine), statistics.fmean(run.seconds for run in mine)
        seeds = (run.seed for run in mine)
        arms.append([*key, listed(map(store_of, mine)), listed(seeds), listed(steps), f"{seconds:.1f}"])
    for run in runs:
        image_set, label = run.images, run.labels
        images.append([getattr(image_set, key) for key in ("name", "source", "commit", "fingerprint", "images", "ipc")])
        if label.of_teachers:
            facts = label.epochs, label.bytes, label.label_dtype, label.forward_batch, label.device
            origin = label.source or "made here", label.commit
            labels.append([image_set.name, store_of(run), *facts, *origin, reports.percent(label.recognised)])
        for t in run.teachers:
            teachers.append([t.source, t.architecture, t.commit, t.sha256, reports.percent(t.top1)])
    machines.append(["test images scored", listed(run.images_scored for run in runs)])
    machines.append(["seed of the views", listed(run.views_seed for run in runs)])
    for key in ("processes", "precision", "devices", "threads", "git"):
        machines.append([key, listed(getattr(run.environment, key) for run in runs)])
    versions = [run.environment.versions for run in runs]
    machines += [[name, listed(version.get(name) for version in versions)] for name in versions[0]]
    return ["## Provenance", *(table(rows) for rows in (arms, images, labels, teachers, machines) if len(rows) > 1)]


def store_of(run: Run) -> str:
    """How the folder of a Run's label store is called, "classes" for hard labels, "own" for those of the images themselves."""
    labels = run.labels
    if not labels.of_teachers:
        return {"hard": "classes", "learned": "own"}[labels.kind]
    assert labels.teachers_id is not None
    return f"{labels.teachers_id[:8]}-{labels.views_digest}-s{labels.views_seed}"


def weights_section(runs: list[Run], head: Run, folder: Path, root: Path | str) -> list[str]:
    """How to load the network that was kept, if one was: of the headline arm where possible."""
    head_first = sorted(runs, key=lambda run: run.arm != head.arm)
    networks = [student_folder(Results(root).path_of(run)) for run in head_first]
    kept = [path for path in networks if path.is_relative_to(folder) and (path / "config.json").is_file()]
    if not kept:
        return []
    text = "The weights of the first seed after its last epoch, whatever its score, read from this card's folder:"
    return [text, how_to_load(sources.saved(kept[0].relative_to(folder).as_posix()))]


def how_to_load(network: NetworkSource) -> str:
    """The Python that makes a student that is at `network`."""
    code = f"import rd3_utils, timm\n\nstudent = timm.create_model({json.dumps(network.text)}, pretrained=True)"
    return fenced(code, "python")
