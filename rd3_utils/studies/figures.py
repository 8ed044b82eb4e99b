"""The pictures of a study report: cells, before and after, shares of the variance, one knob at a time, cost."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rd3_utils.publishing import plots
from rd3_utils.publishing.plots import without_mathematics
from rd3_utils.scoring.report import percent
from rd3_utils.studies.ranking import PARTS
from rd3_utils.studies.words import between, by_keys, place

# Okabe & Ito, as in plots.py; more series than that get dashes
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#444444", "#F0E442")
MARKERS = "osD^vP*X"
Looks = dict[str, tuple[str, str]]  # {name: (colour, marker)}


def draw_figures(folder: Path, report: dict) -> dict[str, list[tuple[str, str]]]:
    """Draw all pictures into `folder`; {key of REPORT_SECTIONS: [(file, caption)]}. A method has one colour in all of them."""
    cells, pictures = [e for e in report["cells"] if e["grid"]], {}
    methods = series_looks(e["method"] for e in report["cells"])
    if cells:
        draw_cells(cells, folder / "cells.png")
        draw_cost(cells, methods, lambda e: (e["image_bytes"] + e["label_bytes"]) / 1e6, "images + labels (MB)",
                  folder / "bytes.png")  # fmt: skip
        pictures["cells"] = [("cells.png", "top-1 of every method under every protocol")]
        pictures["cost"] = [("bytes.png", "top-1 against the bytes of images and labels")]
        timed = [e for e in cells if e["synthesis_seconds"]]
        if timed:
            draw_cost(timed, methods, lambda e: e["synthesis_seconds"] / 60, "synthesis (minutes)", folder / "synthesis.png")
            pictures["cost"].append(("synthesis.png", "top-1 against synthesis time; real images take none"))
    if report["before_after"]:
        draw_slopes(report["before_after"], methods, folder / "before-after.png")
        pictures["before_after"] = [("before-after.png", "every method under its own protocol and under the unified one")]
    shares = [e for e in report["decomposition"] if e["variance"]]
    if shares:
        draw_shares(shares, folder / "decomposition.png")
        pictures["decomposition"] = [("decomposition.png", "shares of the variance without noise, large ones with interval")]
    if report["ablation"]:
        draw_ablation(report["ablation"], folder / "ablation.png")
        pictures["ablation"] = [("ablation.png", "change of top-1 by each knob")]
    return pictures


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
        parts = [e["parts"][part] for e in entries]
        shares = np.array([100 * (one["share" if one["corrected"] is None else "corrected"] or 0) for one in parts])
        axes.barh(range(len(entries)), shares, left=left, color=colour, label=part, height=0.6)
        for i, (one, share) in enumerate(zip(parts, shares)):
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
