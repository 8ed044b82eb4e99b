"""The report of a study: report.md for people, report.json with the same numbers as fractions, and pictures of them.

Nothing is computed here: every number comes from findings.py beside it. Accuracies and shares are percent on paper.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rd3_utils.publishing import plots
from rd3_utils.publishing.plots import without_mathematics
from rd3_utils.scoring.report import percent
from rd3_utils.studies.ranking import PARTS
from rd3_utils.studies.study import Study
from rd3_utils.text import escape, table
from rd3_utils.units import duration, size

# Okabe & Ito, as in plots.py; more series than that get dashes
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#444444", "#F0E442")
MARKERS = "osD^vP*X"
Looks = dict[str, tuple[str, str]]  # {name: (colour, marker)}


def facts(folder: Path) -> dict:
    """What an earlier report noted of the image sets, {} without one: they need not be there any more."""
    path = folder / "images.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write_report(folder: Path, study: Study, report: dict, images: dict) -> Path:
    """Write report.md, report.json, images.json and plots/ into `folder`; the path of report.md."""
    pictures = draw_figures(folder / "plots", report)
    plots.write_picture(folder / "images.json", f"{json.dumps(images, indent=1)}\n".encode())
    plots.write_picture(folder / "report.json", f"{json.dumps(report, indent=1, allow_nan=False)}\n".encode())
    plots.write_picture(folder / "report.md", report_text(study, report, pictures).encode())
    return folder / "report.md"


def report_text(study: Study, report: dict, pictures: dict[str, list[tuple[str, str]]]) -> str:
    """report.md."""
    parts = [f"# {escape(report['title'])}"]
    parts += [escape(study.description)] if study.description else []
    there = ", ".join([f"{report['cells_there']} of {report['cells_planned']} cells", *report["precision"]])
    parts.append(f"{there}. Accuracies are top-1 in percent, of the last epoch on the whole test split. Intervals are 95 %; of "
                 "a single value there is none.")  # fmt: skip
    parts += [f"> {escape(note)}" for note in report["notes"]]
    for title, name, shown, section in SECTIONS:
        if report[name]:
            parts += [f"## {title}", *section(report)]
            parts += [f"![{escape(caption)}](plots/{file})" for file, caption in pictures.get(shown, [])]
    return "\n\n".join(parts) + "\n"


def place(entry: dict, *more: str) -> str:
    """ "cifar10, 10 images per class, convnet3"."""
    images = f"{entry['ipc']} image{'s' if entry['ipc'] > 1 else ''} per class" if entry["ipc"] else "all images"
    words = [entry["benchmark"], images]
    return ", ".join([*words, *([entry["student"]] if "student" in entry else []), *more])


def plus_minus(entry: dict) -> str:
    """ "51.73 +- 0.42" in percent."""
    return percent(entry["mean"]) + ("" if entry["std"] is None else f" +- {percent(entry['std'])}")


def signed_points(fraction: float | None, digits: int = 2) -> str:
    """A difference of fractions in points, with its sign."""
    return "-" if fraction is None else f"{100 * fraction:+.{digits}f}"


def between(entry: dict, digits: int = 1, factor: float = 100) -> str:
    """ "[3.1, 8.0]" of an entry with low and high."""
    if entry["low"] is None:
        return "-"
    return f"[{factor * entry['low']:.{digits}f}, {factor * entry['high']:.{digits}f}]"


def by_keys(entries: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """{values of keys: [entries]} in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for entry in entries:
        found.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return found


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


def count(entry: dict) -> str:
    """ "n = 3" or "3 draws, n = 9"."""
    return (f"{len(entry['draws'])} draws, " if len(entry["draws"]) > 1 else "") + f"n = {entry['n']}"


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
    of = {part: [100 * e["parts"][part]["share"] for e in entries if e["variance"]] for part in ("protocol", "method")}
    count = len(of["protocol"])
    if not count:
        return "All accuracies are the same."

    def said(values: list[float]) -> str:
        low, high = (f"{value:.0f}" for value in (min(values), max(values)))
        return f"{low} %" if low == high else f"{low} to {high} %"

    where = "" if count == 1 else f", in {count} places"
    return f"The protocol makes {said(of['protocol'])} of the variance of accuracies, the method {said(of['method'])}{where}."


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


SECTIONS = (  # title, key of the report, key of its pictures, its Markdown
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


def draw_figures(folder: Path, report: dict) -> dict[str, list[tuple[str, str]]]:
    """Draw all pictures into `folder`; {key of SECTIONS: [(file, caption)]}. A method has one colour in all of them."""
    cells, found = [e for e in report["cells"] if e["grid"]], {}
    methods = series_looks(e["method"] for e in report["cells"])
    if cells:
        draw_cells(cells, folder / "cells.png")
        draw_cost(cells, methods, lambda e: (e["image_bytes"] + e["label_bytes"]) / 1e6, "images + labels (MB)",
                  folder / "bytes.png")  # fmt: skip
        found["cells"] = [("cells.png", "top-1 of every method under every protocol")]
        found["cost"] = [("bytes.png", "top-1 against the bytes of images and labels")]
        timed = [e for e in cells if e["synthesis_seconds"]]
        if timed:
            draw_cost(timed, methods, lambda e: e["synthesis_seconds"] / 60, "synthesis (minutes)", folder / "synthesis.png")
            found["cost"].append(("synthesis.png", "top-1 against synthesis time; real images take none"))
    if report["before_after"]:
        draw_slopes(report["before_after"], methods, folder / "before-after.png")
        found["before_after"] = [("before-after.png", "every method under its own protocol and under the unified one")]
    shares = [e for e in report["decomposition"] if e["variance"]]
    if shares:
        draw_shares(shares, folder / "decomposition.png")
        found["decomposition"] = [("decomposition.png", "shares of the variance without noise, large ones with interval")]
    if report["ablation"]:
        draw_ablation(report["ablation"], folder / "ablation.png")
        found["ablation"] = [("ablation.png", "change of top-1 by each knob")]
    return found


def series_looks(names: Iterable[str]) -> Looks:
    """{name: (colour, marker)}: colours first, then markers."""
    return {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(dict.fromkeys(names))}


def tidy(axes: "plots.Axes", axis: Literal["both", "x", "y"] = "both") -> None:
    axes.grid(axis=axis, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cells(cells: list[dict], path: Path) -> None:
    """A panel per place: a row per method, a dot with its std per protocol."""
    groups = by_keys(cells, "benchmark", "ipc", "student")
    looks = series_looks(e["protocol"] for e in cells)
    methods = [list(dict.fromkeys(e["method"] for e in mine)) for mine in groups.values()]
    heights = [len(names) * (0.18 + 0.1 * len(looks)) + 0.55 for names in methods]
    figure = plots.new_figure(7.6, sum(heights) + 0.6 + 0.2 * len(looks), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, mine, names in zip(panels, groups.values(), methods):
        for e in mine:
            colour, marker = looks[e["protocol"]]
            shift = (list(looks).index(e["protocol"]) - (len(looks) - 1) / 2) * 0.7 / max(1, len(looks))
            at = names.index(e["method"]) + shift
            axes.errorbar(100 * e["mean"], at, xerr=100 * (e["std"] or 0), fmt=marker, color=colour, markersize=5, capsize=2)
        for i in range(1, len(names), 2):  # every other method on grey
            axes.axhspan(i - 0.5, i + 0.5, color="#000000", alpha=0.04, linewidth=0)
        axes.set_yticks(range(len(names)), [without_mathematics(name) for name in names], fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(without_mathematics(place(mine[0])), fontsize=10, loc="left")
        tidy(axes, "x")
    panels[-1].set_xlabel("top-1 (%): mean and standard deviation")
    legend(figure, looks)
    plots.save_figure(figure, path)


def legend(figure: "plots.Figure", looks: Looks, where: str = "center", **more: Any) -> None:
    """One legend below all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=c, marker=m, linestyle="", markersize=5, label=without_mathematics(n))
        for n, (c, m) in looks.items()
    ]
    columns = 1 if max(map(len, looks)) > 40 else min(3, len(looks))
    loc: Any = f"outside lower {where}"
    figure.legend(handles=handles, loc=loc, ncols=columns, fontsize=8, frameon=False, **more)


def draw_slopes(entries: list[dict], methods: Looks, path: Path) -> None:
    """A panel per place: a line per method from its own protocol to the unified one."""
    columns = min(3, len(entries))
    rows = -(-len(entries) // columns)
    figure = plots.new_figure(max(5.0, 3.2 * columns), 3.6 * rows + 0.5, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, entry in zip(panels, entries):
        for row in entry["rows"]:
            colour, marker = methods[row["method"]]
            axes.plot(
                [0, 1], [100 * row["before"], 100 * row["after"]], color=colour, marker=marker, linewidth=1.4, markersize=5
            )
        axes.set_xticks([0, 1], ["own protocol", without_mathematics(entry["unified"])], fontsize=8)
        axes.set_xlim(-0.2, 1.2)
        axes.set_title(
            without_mathematics(f"{entry['benchmark']}, {entry['student']}\n{place(entry).split(', ')[1]}"), fontsize=9
        )
        tidy(axes, "y")
    for axes in panels[len(entries) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("top-1 (%)")
    shown = {row["method"] for entry in entries for row in entry["rows"]}
    legend(figure, {name: look for name, look in methods.items() if name in shown})
    plots.save_figure(figure, path)


def draw_shares(entries: list[dict], path: Path) -> None:
    """A stacked bar per place: shares of method, protocol, interaction and seed, without noise if that is known.

    Wide ones say their interval.
    """
    figure = plots.new_figure(7.6, 0.5 * len(entries) + 1.3, layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(entries))
    for part, colour, ink in zip(PARTS, ("#0072B2", "#E69F00", "#CC79A7", "#BBBBBB"), ("white", *3 * ["black"])):
        found = [e["parts"][part] for e in entries]
        shares = np.array([100 * (one["share" if one["corrected"] is None else "corrected"] or 0) for one in found])
        axes.barh(range(len(entries)), shares, left=left, color=colour, label=part, height=0.6)
        for i, (one, share) in enumerate(zip(found, shares)):
            if share >= 6:
                words = f"{share:.0f} {between(one, 0)}" if share >= 20 and one["low"] is not None else f"{share:.0f}"
                axes.text(left[i] + share / 2, i, words, ha="center", va="center", fontsize=8, color=ink)
        left += shares
    axes.set_yticks(range(len(entries)), [without_mathematics(place(e)) for e in entries], fontsize=8)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the variance of top-1 (%) without noise, with 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    plots.save_figure(figure, path)


def draw_ablation(entries: list[dict], path: Path) -> None:
    """A panel per place and method: the change by each variant, with its standard error where there is one."""
    variants = [[row for row in entry["rows"] if row["change"] is not None] for entry in entries]
    heights = [0.24 * len(rows) + 0.5 for rows in variants]
    figure = plots.new_figure(7.6, sum(heights) + 0.5, layout="constrained")
    panels = figure.subplots(len(entries), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, entry, rows in zip(panels, entries, variants):
        axes.axvline(0, color="#444444", linewidth=0.8)
        for i, row in enumerate(rows):
            axes.errorbar(100 * row["change"], i, xerr=100 * (row["error"] or 0), fmt="o", color=PALETTE[0], markersize=5,
                          capsize=2)  # fmt: skip
        axes.set_yticks(range(len(rows)), [without_mathematics(row["what"]) for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        base = f"{entry['protocol']}: {percent(entry['rows'][0]['mean'])} %"
        axes.set_title(without_mathematics(place(entry, entry["method"], base)), fontsize=9, loc="left")
        tidy(axes, "x")
    panels[-1].set_xlabel("change of top-1 in points, with standard error")
    plots.save_figure(figure, path)


def draw_cost(cells: list[dict], methods: Looks, cost: Callable[[dict], float], label: str, path: Path) -> None:
    """A panel per benchmark and student: accuracy against a cost on a logarithmic axis; colour: method, marker: protocol.

    Of the points at one cost the uppermost says how many images per class they have.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    groups = by_keys(cells, "benchmark", "student")
    protocols = series_looks(e["protocol"] for e in cells)
    shown = {name: (look[0], "s") for name, look in methods.items() if name in {e["method"] for e in cells}}
    entries = max(-(-len(shown) // 3), -(-len(protocols) // 3) if max(map(len, protocols)) <= 40 else len(protocols))
    figure = plots.new_figure(7.6, 3.4 * len(groups) + 0.2 * entries + 0.3, layout="constrained")
    for axes, mine in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups.values()):
        tops: dict[tuple[str, int | None], dict] = {}
        for e in mine:
            axes.plot(
                cost(e), 100 * e["mean"], protocols[e["protocol"]][1], color=methods[e["method"]][0], markersize=6, alpha=0.8
            )
            key = f"{cost(e):.1e}", e["ipc"]
            tops[key] = max(tops.get(key, e), e, key=lambda one: one["mean"])
        for (_, ipc), e in tops.items():
            axes.annotate(
                str(ipc or "all"),
                (cost(e), 100 * e["mean"]),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.1)
        axes.set(xlabel=label, ylabel="top-1 (%)")
        title = f"{mine[0]['benchmark']}, {mine[0]['student']}; numbers are images per class"
        axes.set_title(without_mathematics(title), fontsize=10, loc="left")
        tidy(axes)
    legend(figure, shown, "left", title="method", title_fontsize=8, alignment="left")
    marks = {name: ("#444444", marker) for name, (_, marker) in protocols.items()}
    legend(figure, marks, "right", title="protocol", title_fontsize=8, alignment="left")
    plots.save_figure(figure, path)
