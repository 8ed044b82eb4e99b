"""The report of a study: report.md for people, report.json with the same numbers as fractions, and pictures of them.

Nothing is computed here: every number comes from findings.py beside it. Accuracies and shares are percent on paper.
"""

import json
from collections.abc import Callable
from pathlib import Path

from rd3_utils import files
from rd3_utils.scoring.report import percent
from rd3_utils.studies.figures import draw_figures
from rd3_utils.studies.ranking import PARTS
from rd3_utils.studies.study import Study
from rd3_utils.studies.words import between, by_keys, count, place, plus_minus, signed_points
from rd3_utils.text import escape, table
from rd3_utils.units import duration, size


def facts(folder: Path) -> dict:
    """What an earlier report noted of the image sets, {} without one: they need not be there any more."""
    path = folder / "images.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_report(folder: Path, study: Study, report: dict, images: dict) -> Path:
    """Write report.md, report.json, images.json and plots/ into `folder`; the path of report.md."""
    pictures = draw_figures(folder / "plots", report)
    files.write_whole(folder / "images.json", f"{json.dumps(images, indent=1)}\n")
    files.write_whole(folder / "report.json", f"{json.dumps(report, indent=1, allow_nan=False)}\n")
    files.write_whole(folder / "report.md", report_text(study, report, pictures))
    return folder / "report.md"


def report_text(study: Study, report: dict, pictures: dict[str, list[tuple[str, str]]]) -> str:
    """report.md."""
    parts = [f"# {escape(report['title'])}"]
    parts += [escape(study.description)] if study.description else []
    there = ", ".join([f"{report['cells_there']} of {report['cells_planned']} cells", *report["precision"]])
    parts.append(f"{there}. Accuracies are top-1 in percent, of the last epoch on the whole test split. Intervals are 95 %; of "
                 "a single value there is none.")  # fmt: skip
    parts += [f"> {escape(note)}" for note in report["notes"]]
    for title, name, shown, section in REPORT_SECTIONS:
        if report[name]:
            parts += [f"## {title}", *section(report)]
            parts += [f"![{escape(caption)}](plots/{file})" for file, caption in pictures.get(shown, [])]
    return "\n\n".join(parts) + "\n"


def cells_section(report: dict) -> list[str]:
    """Mean and std per method and protocol, a table per place; then what the cells cost."""
    parts: list[str] = []
    for mine in by_keys(report["cells"], "benchmark", "ipc", "student").values():
        in_grid = [e["protocol"] for e in mine if e["grid"]]
        protocols = list(dict.fromkeys(in_grid or [e["protocol"] for e in mine]))
        at = {(e["method"], e["protocol"]): e for e in mine}
        rows = [["method", *protocols]]
        for method in dict.fromkeys(e["method"] for e in mine if e["protocol"] in protocols):
            shown = [at.get((method, p)) for p in protocols]
            rows.append([method, *("-" if e is None else f"{plus_minus(e)} ({count(e)})" for e in shown)])
        parts += [f"**{escape(place(mine[0]))}**", table(rows)] if len(rows) > 1 else []
    return [*parts, "std is the sample standard deviation over all students of a cell, seeds and draws pooled."]


def before_after_section(report: dict) -> list[str]:
    """Own recipe and unified one per method, and what is left of the spread."""
    parts: list[str] = []
    for entry in report["before_after"]:
        rows = [["method", "its own protocol", "before", f"after: {entry['unified']}", "change in points"]]
        for row in entry["rows"]:
            rows.append(
                [row["method"], row["own"], percent(row["before"]), percent(row["after"]), signed_points(row["change"])]
            )
        spreads = [entry["spread"][when] for when in ("before", "after")]
        if all(spreads):
            change = spreads[1]["spread"] - spreads[0]["spread"]
            rows.append(["spread (max - min)", "", *(percent(s["spread"]) for s in spreads), signed_points(change)])
        parts += [f"**{escape(place(entry))}**", table(rows)]
    return parts


def spread_section(report: dict) -> list[str]:
    """Largest minus smallest method under each protocol."""
    rows = [["place", "protocol", "spread in points", "best", "worst"]]
    for entry in report["spread"]:
        rows.append([place(entry), entry["protocol"], percent(entry["spread"]), entry["best"], entry["worst"]])
    return [table(rows)]


def decomposition_section(report: dict) -> list[str]:
    """In one sentence, then shares of the variance as it is seen, and with intervals without noise; what was left out."""
    rows = [["place", "methods x protocols", *(f"{part} %" for part in PARTS), "variance, points^2"]]
    less, left = [["place", *(f"{part} %" for part in PARTS)]], []
    for entry in report["decomposition"]:
        shares = [entry["parts"][part] for part in PARTS]
        shape = f"{len(entry['methods'])} x {len(entry['protocols'])}"
        rows.append([place(entry), shape, *(percent(s["share"], 1) for s in shares), f"{1e4 * entry['variance']:.2f}"])
        less.append([place(entry), *(known_share(s) for s in shares)])
        if entry["left_out"]:
            kept, gone = (escape("; ".join(names)) for names in (entry["methods"] + entry["protocols"], entry["left_out"]))
            left.append(f"- {escape(place(entry))}: not every method has a score under every protocol; this is of {kept} only, "
                        f"without {gone}.")  # fmt: skip
        fewest, most = entry["replicates"]
        if fewest == 1 < most:
            left.append(f"- {escape(place(entry))}: cells have 1 to {most} students; those of a single one are taken to "
                        "vary as the others do.")  # fmt: skip
    parts = [f"> {claim(report['decomposition'])}",
             "Two-way analysis of variance, every cell of a method and a protocol weighing the same; seed: seeds and draws "
             "within a cell. With one value per cell, seed cannot be told from interaction.", table(rows)]  # fmt: skip
    parts += ["\n".join(left)] if left else []
    text = (
        "The same without what noise within the cells adds to the first three (expected mean squares), with 95 % intervals of "
        "the shares that endless students would show. They are of these methods and protocols, and take seeds as independent "
        "between protocols. A row of three draws of images widens them much: three draws say little of luck."
    )
    return [*parts, text, table(less)]


def known_share(part: dict) -> str:
    """ "4.2 [3.4, 5.1]" of one part without noise."""
    return percent(part["corrected"], 1) + ("" if part["low"] is None else f" {between(part)}")


def claim(entries: list[dict]) -> str:
    """What the decompositions say of method and protocol, in a sentence."""
    shares = {part: [100 * e["parts"][part]["share"] for e in entries if e["variance"]] for part in ("protocol", "method")}
    count = len(shares["protocol"])
    if not count:
        return "All accuracies are the same."

    def said(values: list[float]) -> str:
        low, high = (f"{value:.0f}" for value in (min(values), max(values)))
        return f"{low} %" if low == high else f"{low} to {high} %"

    where = "" if count == 1 else f", in {count} places"
    protocol, method = said(shares["protocol"]), said(shares["method"])
    return f"The protocol makes {protocol} of the variance of accuracies, the method {method}{where}."


def tau_rows(entries: list[dict], where: Callable[[dict], str]) -> list[list[str]]:
    rows = []
    for entry in entries:
        tau = "-" if entry["tau"] is None else f"{entry['tau']:.2f}"
        rows.append([where(entry), *entry["pair"], tau, between(entry, 2, 1), str(len(entry["methods"]))])
    return rows


TAU = (
    "Kendall's tau-b of the methods' order: 1, the same order; 0, no relation; -1, reversed. The interval is what it may be if "
    "pairs of methods that seeds and draws do not tell apart (Student's t, 5 % a pair) lie either way; it holds the tau of "
    "endless students in at least 95 % of studies."
)


def protocols_section(report: dict) -> list[str]:
    """Tau between protocols."""
    header = ["place", "protocol", "and", "tau", "interval", "methods"]
    return [TAU, table([header, *tau_rows(report["protocols"], place)])]


def students_section(report: dict) -> list[str]:
    """Tau between students."""
    header = ["place", "student", "and", "tau", "interval", "methods"]
    return [TAU, table([header, *tau_rows(report["students"], lambda e: place(e, e["protocol"]))])]


def ablation_section(report: dict) -> list[str]:
    """Each variant against the base."""
    parts: list[str] = []
    for entry in report["ablation"]:
        rows = [["changed", "top-1 %", "n", "change in points", "standard error"]]
        for row in entry["rows"]:
            error = percent(row["error"])
            rows.append([row["what"], plus_minus(row), str(row["n"]), signed_points(row["change"]), error])
        parts += [f"**{escape(place(entry, entry['method'], 'around ' + entry['protocol']))}**", table(rows)]
    return parts


def cost_section(report: dict) -> list[str]:
    """What a cell weighs and takes, a table per place; of ablations only where there is nothing else."""
    parts = ["Images: the files of a local set, else (pixels) 3 bytes per pixel, uncompressed. Labels: the store that a "
             "student reads, views included. Synthesis: what distilled.json says, 0 for real images; no teacher is "
             "counted."]  # fmt: skip
    shown = [e for e in report["cells"] if e["grid"]] or report["cells"]
    for mine in by_keys(shown, "benchmark", "ipc", "student").values():
        rows = [["method", "protocol", "top-1 %", "images", "labels", "together", "synthesis", "training of a student"]]
        for e in mine:
            total, images = size(e["image_bytes"] + e["label_bytes"]), size(e["image_bytes"])
            images += " (pixels)" if e["image_bytes_are"] == "pixels" else ""
            made = "-" if e["synthesis_seconds"] is None else duration(e["synthesis_seconds"])
            label = size(e["label_bytes"]) if e["label_bytes"] else "classes"
            rows.append([e["method"], e["protocol"], percent(e["mean"]), images, label, total, made,
                         duration(e["training_seconds"])])  # fmt: skip
        parts += [f"**{escape(place(mine[0]))}**", table(rows)]
    return parts


def recognised_section(report: dict) -> list[str]:
    """A row per image set and teachers."""
    rows = [["images", "method", "teachers", "recognised, %", "sets"]]
    for e in report["recognised"]:
        rows.append([place(e), e["method"], e["teachers"], percent(e["recognised"]), e["sets"]])
    text = (
        "Share of the images, as they are, that the teachers put into their own class; mean over draws. The soft labels of the "
        "others speak of other classes: where that is most of a set, its scores under soft labels say what the teacher makes "
        "of the images, not what is in them."
    )
    return [text, table(rows)]


REPORT_SECTIONS = (  # title, key of the report, key of its pictures, its Markdown
    ("Accuracy", "cells", "cells", cells_section),
    ("Before and after", "before_after", "before_after", before_after_section),
    ("Spread", "spread", "", spread_section),
    ("How much is recipe?", "decomposition", "decomposition", decomposition_section),
    ("Do protocols rank methods alike?", "protocols", "", protocols_section),
    ("Do students rank methods alike?", "students", "", students_section),
    ("One knob at a time", "ablation", "ablation", ablation_section),
    ("Does the teacher recognise the images?", "recognised", "", recognised_section),
    ("Bytes and time", "cells", "cost", cost_section),
)
