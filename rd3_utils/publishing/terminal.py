"""What the terminal says after a command: scores, where the card lies, what to try next, and commands that repeat it."""

import dataclasses
from pathlib import Path

from rd3_utils import command_lines
from rd3_utils.arms.planned_runs import PlannedRun
from rd3_utils.data.sources import without_machine
from rd3_utils.learning import teachers as networks
from rd3_utils.options import TrainOptions, unpublished
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.scoring import report as reports
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.runs import Run, RunTeacher
from rd3_utils.text import listed


def say(
    report: dict, cell: PlannedRun, folder: Path, pictures: dict[str, list[tuple[str, str]]], tips: list[tuple[str, str]]
) -> None:
    """Print scores, where the card lies, and what to try next."""
    print(f"\n{cell.images.name} under {cell.protocol.label}")
    show_table(reports.scores_table(report), names=2)
    for student, scores in report["scores"].items():
        if scores:
            named = [(name, value, between) for name, value, between, *_ in reports.named_scores(scores)]
            print(f"{student}: {', '.join(f'{name} {value} (95 % {between})' for name, value, between in named)}")
        for text in reports.score_sentences(report, student):
            print(f"  {text}")
    if report["students"]:
        print("top-1 %, and points below the best student:")
        show_table(reports.students_table(report))
    for comparison in filter(None, report["comparison"].values()):
        print(reports.sentence(comparison))
    print(f"card   {folder / 'README.md'}\nplots  {folder / 'plots'} ({sum(map(len, pictures.values()))} pictures)")
    print("try next, added to the same command (runs that are there are kept):")
    for question, options in tips[:3]:
        print(f"  {question:32}  {options}")


def show_table(rows: list[list[str]], names: int = 1) -> None:
    """Print rows of text in columns, the first `names` of them flush left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  " + "  ".join(v.ljust(w) if i < names else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))))


def tips(report: dict, benchmark: Benchmark, labels: str) -> list[tuple[str, str]]:
    """[(what one would learn, options)] that make sense after these runs, the most useful first."""
    arms, advice = {arm for summaries in report["arms"].values() for arm in summaries}, []
    if f"random-{labels}" not in arms:
        advice.append(("random real images instead", f"--arms distilled-{labels},random-{labels}"))
    if any(len(summary["seeds"]) < 3 for summaries in report["arms"].values() for summary in summaries.values()):
        advice.append(("the spread over seeds", "--seeds 0,1,2"))
    if f"random-{labels}" in arms and not any(report["comparison"].values()):
        other = {"soft": "hard-label-v1 --arms distilled-hard,random-hard",
                 "hard": "rd3-v1 --teacher default --arms distilled-soft,random-soft"}  # fmt: skip
        advice.append(("is it the recipe or the data?", f"--protocol {other[labels]}"))
    if "full-hard" not in arms and not report["cited"]:
        advice.append(("HLR, IOR and LRS", "--arms lrs"))
    if labels == "soft" and "distilled-plain" not in arms:
        advice.append(("does augmentation carry it?", "--arms ars"))
    students = ("convnet3_bn", "resnet18") if benchmark.image.size <= 64 else ("resnet18", "mobilenetv2_100")
    student = next((name for name in students if name not in report["arms"]), students[1])
    advice.append(("another student", f"--student {student}"))
    return [*advice, ("your own images", "--distilled FOLDER or OWNER/REPO")]


def same_commands(runs: list[Run]) -> dict[tuple[str, tuple[int, ...], int | None], list[Run]]:
    """{(student, seeds, draw or None): the Runs that one command makes}: of every arm the draws that were run, and no others.

    Draws 0 to N - 1 of the same seeds are one command; any others are one each.
    """
    commanded: dict[tuple[str, tuple[int, ...], int | None], list[Run]] = {}
    for (student, arm), mine in run_files.grouped(runs, lambda run: (run.student, run.arm)).items():
        random = arm.startswith("random-")
        by_draw = run_files.grouped(mine, lambda run, random=random: run.draw if random else None)
        seeds = {draw: tuple(sorted({run.seed for run in drawn})) for draw, drawn in by_draw.items()}
        whole = None in by_draw or (sorted(by_draw) == list(range(len(by_draw))) and len(set(seeds.values())) == 1)
        for draw, drawn in by_draw.items():
            commanded.setdefault((student, seeds[draw], None if whole else draw), []).extend(drawn)
    return commanded


def commands(runs: list[Run], options: TrainOptions, benchmark: Benchmark) -> list[str]:
    """The command lines that make these `runs`: one for all arms of a student with the same seeds, else as `options` say."""
    lines = []
    for (student, seeds, draw), mine in same_commands(runs).items():
        draws = [run.draw for run in mine if run.arm.startswith("random-") and run.draw is not None]
        teachers: tuple[RunTeacher, ...] = next((run.teachers for run in mine if run.teachers), ())
        made = dataclasses.replace(
            unpublished(options),
            arms=listed((run.arm for run in mine), ","),
            seeds=seeds,
            draws=max(draws) + 1 if draws and draw is None else TrainOptions.draws,
            draw=draw,
            runs_only=False,
            keep_weights=TrainOptions.keep_weights,  # of no matter to the Runs
            student=None if student == benchmark.defaults.student else student,
            teacher=tuple("default" if networks.is_default(teacher, benchmark) else teacher.source for teacher in teachers),
            views_seed=mine[0].views_seed if mine[0].views == "shared" else "each",
            monitor_test=any(run.monitored_test for run in mine),
        )
        lines.append(command_lines.launch(made, spell=without_machine, precision=mine[0].environment.precision))
    return lines
