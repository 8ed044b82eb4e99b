"""The report of a study: report.md for people, report.json with the same numbers as fractions, and pictures of them.

Nothing is computed here: every number comes from scoring/findings.py. Accuracies and shares are percent on paper.
"""

import json

import numpy as np

from rd3_utils.publishing import plots
from rd3_utils.publishing.markdown import escape, table
from rd3_utils.publishing.plots import plain
from rd3_utils.scoring.bootstrap import CONFIDENCE, RESAMPLES
from rd3_utils.scoring.ranking import PARTS
from rd3_utils.scoring.report import percent

# Okabe & Ito, as in plots.py; more series than that get dashes
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#444444", "#F0E442")
MARKERS = "osD^vP*X"


def facts(folder):
    """What an earlier report noted of the image sets, {} without one: they need not be there any more."""
    path = folder / "images.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write(folder, study, report, images):
    """Write report.md, report.json, images.json and plots/ into `folder`; the path of report.md."""
    pictures = draw(folder / "plots", report)
    plots.write(folder / "images.json", f"{json.dumps(images, indent=1)}\n".encode())
    plots.write(folder / "report.json", f"{json.dumps(report, indent=1, allow_nan=False)}\n".encode())
    plots.write(folder / "report.md", text(study, report, pictures).encode())
    return folder / "report.md"


def text(study, report, pictures):
    """report.md."""
    parts = [f"# {escape(report['title'])}"]
    parts += [escape(study.description)] if study.description else []
    parts.append(f"{report['cells_there']} of {report['cells_planned']} cells. Accuracies are top-1 in percent, of the last "
                 f"epoch on the whole test split. Intervals: {100 * CONFIDENCE:.0f} %, percentile bootstrap over seeds and "
                 f"draws, {RESAMPLES} resamples; of a single value there is none, of two or three they are rough and lean low "
                 "for seed.")  # fmt: skip
    parts += [f"> {escape(note)}" for note in report["notes"]]
    for title, name, shown, section in SECTIONS:
        if report[name]:
            parts += [f"## {title}", *section(report)]
            parts += [f"![{escape(caption)}](plots/{file})" for file, caption in pictures.get(shown, [])]
    return "\n\n".join(parts) + "\n"


def place(entry, *more):
    """ "cifar10, 10 images per class, convnet3"."""
    images = f"{entry['ipc']} image{'s' if entry['ipc'] > 1 else ''} per class" if entry["ipc"] else "all images"
    words = [entry["benchmark"], images]
    return ", ".join([*words, *([entry["student"]] if "student" in entry else []), *more])


def plus_minus(entry):
    """ "51.73 +- 0.42" in percent."""
    return percent(entry["mean"]) + ("" if entry["std"] is None else f" +- {percent(entry['std'])}")


def signed(fraction, digits=2):
    """A difference of fractions in points, with its sign."""
    return "-" if fraction is None else f"{100 * fraction:+.{digits}f}"


def between(entry, digits=1, factor=100):
    """ "[3.1, 8.0]" of an entry with low and high."""
    if entry["low"] is None:
        return "-"
    return f"[{factor * entry['low']:.{digits}f}, {factor * entry['high']:.{digits}f}]"


def grouped(entries, *keys):
    """{values of keys: [entries]} in order of appearance."""
    found = {}
    for entry in entries:
        found.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return found


def cells_section(report):
    """Mean and std per method and protocol, a table per place; then what the cells cost."""
    parts = []
    for mine in grouped(report["cells"], "benchmark", "ipc", "student").values():
        in_grid = [e["protocol"] for e in mine if e["grid"]]
        protocols = list(dict.fromkeys(in_grid or [e["protocol"] for e in mine]))
        at = {(e["method"], e["protocol"]): e for e in mine}
        rows = [["method", *protocols]]
        for method in dict.fromkeys(e["method"] for e in mine if e["protocol"] in protocols):
            shown = [at.get((method, p)) for p in protocols]
            rows.append([method, *("-" if e is None else f"{plus_minus(e)} ({count(e)})" for e in shown)])
        parts += [f"**{escape(place(mine[0]))}**", table(rows)] if len(rows) > 1 else []
    return [*parts, "std is the sample standard deviation over all students of a cell, seeds and draws pooled."]


def count(entry):
    """ "n = 3" or "3 draws, n = 9"."""
    return (f"{len(entry['draws'])} draws, " if len(entry["draws"]) > 1 else "") + f"n = {entry['n']}"


def before_after_section(report):
    """Own recipe and unified one per method, and what is left of the spread."""
    parts = []
    for entry in report["before_after"]:
        rows = [["method", "its own protocol", "before", f"after: {entry['unified']}", "change in points"]]
        for row in entry["rows"]:
            rows.append([row["method"], row["own"], percent(row["before"]), percent(row["after"]), signed(row["change"])])
        spreads = [entry["spread"][when] for when in ("before", "after")]
        if all(spreads):
            change = spreads[1]["spread"] - spreads[0]["spread"]
            rows.append(["spread (max - min)", "", *(percent(s["spread"]) for s in spreads), signed(change)])
        parts += [f"**{escape(place(entry))}**", table(rows)]
    return parts


def spread_section(report):
    """Largest minus smallest method under each protocol."""
    rows = [["place", "protocol", "spread in points", "best", "worst"]]
    for entry in report["spread"]:
        rows.append([place(entry), entry["protocol"], percent(entry["spread"]), entry["best"], entry["worst"]])
    return [table(rows)]


def decomposition_section(report):
    """Shares of the variance, with intervals, and what was left out."""
    rows = [["place", "methods x protocols", *(f"{part} %" for part in PARTS), "variance, points^2"]]
    less, left = [["place", *(f"{part} %" for part in PARTS)]], []
    for entry in report["decomposition"]:
        shares = [entry["parts"][part] for part in PARTS]
        shown = ["-" if s["share"] is None else f"{100 * s['share']:.1f} {between(s)}" for s in shares]
        size = f"{len(entry['methods'])} x {len(entry['protocols'])}"
        rows.append([place(entry), size, *shown, f"{1e4 * entry['variance']:.2f}"])
        less.append([place(entry), *(percent(s["corrected"], 1) for s in shares)])
        if entry["left_out"]:
            kept, gone = (escape("; ".join(names)) for names in (entry["methods"] + entry["protocols"], entry["left_out"]))
            left.append(f"- {escape(place(entry))}: cells are missing; this is of {kept} only, without {gone}.")
    parts = ["Two-way analysis of variance, every cell of a method and a protocol weighing the same; seed: seeds and draws "
             "within a cell. With one value per cell, seed cannot be told from interaction.", table(rows)]  # fmt: skip
    parts += ["\n".join(left)] if left else []
    return [*parts, "The same without what seed noise adds to the first three (expected mean squares):", table(less)]


def tau_rows(entries, where):
    rows = []
    for entry in entries:
        tau = "-" if entry["tau"] is None else f"{entry['tau']:.2f}"
        rows.append([where(entry), *entry["pair"], tau, between(entry, 2, 1), str(len(entry["methods"]))])
    return rows


def protocols_section(report):
    """Tau between protocols."""
    header = ["place", "protocol", "and", "tau", "interval", "methods"]
    intro = "Kendall's tau-b of the methods' order: 1, the same order; 0, no relation; -1, reversed."
    return [intro, table([header, *tau_rows(report["protocols"], place)])]


def students_section(report):
    """Tau between students."""
    header = ["place", "student", "and", "tau", "interval", "methods"]
    return [table([header, *tau_rows(report["students"], lambda e: place(e, e["protocol"]))])]


def ablation_section(report):
    """Each variant against the base."""
    parts = []
    for entry in report["ablation"]:
        rows = [["changed", "top-1 %", "n", "change in points", "standard error"]]
        for row in entry["rows"]:
            error = percent(row["error"])
            rows.append([row["what"], plus_minus(row), str(row["n"]), signed(row["change"]), error])
        parts += [f"**{escape(place(entry, entry['method'], 'around ' + entry['protocol']))}**", table(rows)]
    return parts


def cost_section(report):
    """What a cell weighs and takes."""
    rows = [["place", "method", "protocol", "top-1 %", "images", "labels", "together", "synthesis", "training of a student"]]
    for e in report["cells"]:
        total, size = megabytes(e["image_bytes"] + e["label_bytes"]), megabytes(e["image_bytes"])
        size += " (pixels)" if e["image_bytes_are"] == "pixels" else ""
        made = "-" if e["synthesis_seconds"] is None else f"{e['synthesis_seconds']:.0f} s"
        label = megabytes(e["label_bytes"]) if e["label_bytes"] else "classes"
        rows.append([place(e), e["method"], e["protocol"], percent(e["mean"]), size, label, total, made,
                     f"{e['training_seconds']:.0f} s"])  # fmt: skip
    text = ("Images: the files of a local set, else (pixels) 3 bytes per pixel, uncompressed. Labels: the store a student "
            "reads, views included. Synthesis: what distilled.json says, 0 for real images; teachers not counted.")  # fmt: skip
    return [text, table(rows)]


def megabytes(size):
    return f"{size / 1e6:.3g} MB"


SECTIONS = (  # title, key of the report, key of its pictures, its Markdown
    ("Accuracy", "cells", "cells", cells_section),
    ("Before and after", "before_after", "before_after", before_after_section),
    ("Spread", "spread", "", spread_section),
    ("How much is recipe?", "decomposition", "decomposition", decomposition_section),
    ("Do protocols rank methods alike?", "protocols", "", protocols_section),
    ("Do students rank methods alike?", "students", "", students_section),
    ("One knob at a time", "ablation", "", ablation_section),
    ("Bytes and time", "cells", "cost", cost_section),
)


def draw(folder, report):
    """Draw all pictures into `folder`; {key of SECTIONS: [(file, caption)]}."""
    cells, found = [e for e in report["cells"] if e["grid"]], {}
    if cells:
        draw_cells(cells, folder / "cells.png")
        draw_cost(cells, lambda e: (e["image_bytes"] + e["label_bytes"]) / 1e6, "images + labels (MB)", folder / "bytes.png")
        found["cells"] = [("cells.png", "top-1 of every method under every protocol")]
        found["cost"] = [("bytes.png", "top-1 against the bytes of images and labels")]
        timed = [e for e in cells if e["synthesis_seconds"]]
        if timed:
            draw_cost(timed, lambda e: e["synthesis_seconds"], "synthesis (s)", folder / "synthesis.png")
            found["cost"].append(("synthesis.png", "top-1 against synthesis time"))
    if report["before_after"]:
        draw_slopes(report["before_after"], folder / "before-after.png")
        found["before_after"] = [("before-after.png", "every method under its own protocol and under the unified one")]
    shares = [e for e in report["decomposition"] if e["variance"]]
    if shares:
        draw_shares(shares, folder / "decomposition.png")
        found["decomposition"] = [("decomposition.png", "shares of the variance")]
    return found


def style(names):
    """{name: (colour, marker)}: colours first, then markers."""
    return {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(dict.fromkeys(names))}


def tidy(axes, axis="both"):
    axes.grid(axis=axis, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cells(cells, path):
    """A panel per place: a row per method, a dot with its std per protocol."""
    groups = grouped(cells, "benchmark", "ipc", "student")
    looks = style(e["protocol"] for e in cells)
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
        axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(plain(place(mine[0])), fontsize=10, loc="left")
        tidy(axes, "x")
    panels[-1].set_xlabel("top-1 (%): mean and standard deviation")
    legend(figure, looks)
    plots.save(figure, path)


def legend(figure, looks):
    """One legend below all panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, marker=m, linestyle="", markersize=5, label=plain(n)) for n, (c, m) in looks.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=1 if max(map(len, looks)) > 40 else 3, fontsize=8, frameon=False
    )


def draw_slopes(entries, path):
    """A panel per place: a line per method from its own protocol to the unified one."""
    looks = style(row["method"] for entry in entries for row in entry["rows"])
    columns = min(3, len(entries))
    rows = -(-len(entries) // columns)
    figure = plots.new_figure(max(5.0, 3.2 * columns), 3.6 * rows + 0.4, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, entry in zip(panels, entries):
        for row in entry["rows"]:
            colour, marker = looks[row["method"]]
            axes.plot(
                [0, 1], [100 * row["before"], 100 * row["after"]], color=colour, marker=marker, linewidth=1.4, markersize=5
            )
        axes.set_xticks([0, 1], ["own protocol", "unified"], fontsize=8)
        axes.set_xlim(-0.2, 1.2)
        axes.set_title(plain(place(entry)), fontsize=9)
        tidy(axes, "y")
    for axes in panels[len(entries) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("top-1 (%)")
    legend(figure, looks)
    plots.save(figure, path)


def draw_shares(entries, path):
    """A stacked bar per place: shares of method, protocol, interaction and seed, with the interval of protocol."""
    figure = plots.new_figure(7.6, 0.5 * len(entries) + 1.3, layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(entries))
    for part, colour in zip(PARTS, ("#0072B2", "#E69F00", "#CC79A7", "#BBBBBB")):
        shares = np.array([100 * (e["parts"][part]["share"] or 0) for e in entries])
        axes.barh(range(len(entries)), shares, left=left, color=colour, label=part, height=0.6)
        for i, share in enumerate(shares):
            if share >= 6:
                axes.text(left[i] + share / 2, i, f"{share:.0f}", ha="center", va="center", fontsize=8, color="white")
        left += shares
    axes.set_yticks(range(len(entries)), [plain(place(e)) for e in entries], fontsize=8)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the variance of top-1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    plots.save(figure, path)


def draw_cost(cells, cost, label, path):
    """A panel per benchmark and student: accuracy against a cost on a logarithmic axis; colour: method, marker: protocol."""
    groups = grouped(cells, "benchmark", "student")
    methods, protocols = style(e["method"] for e in cells), style(e["protocol"] for e in cells)
    figure = plots.new_figure(7.6, 3.4 * len(groups) + 0.16 * (len(methods) + len(protocols)), layout="constrained")
    for axes, mine in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups.values()):
        for e in mine:
            axes.plot(
                cost(e), 100 * e["mean"], protocols[e["protocol"]][1], color=methods[e["method"]][0], markersize=6, alpha=0.8
            )
            axes.annotate(
                str(e["ipc"] or "all"), (cost(e), 100 * e["mean"]), xytext=(4, 3), textcoords="offset points", fontsize=7
            )
        axes.set_xscale("log")
        axes.set(xlabel=label, ylabel="top-1 (%)")
        title = f"{mine[0]['benchmark']}, {mine[0]['student']}; numbers are images per class"
        axes.set_title(plain(title), fontsize=10, loc="left")
        tidy(axes)
    looks = {name: (colour, "s") for name, (colour, _) in methods.items()}
    legend(figure, {**looks, **{name: ("#444444", marker) for name, (_, marker) in protocols.items()}})
    plots.save(figure, path)
