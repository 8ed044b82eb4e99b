"""Pictures of a card as small PNG files: learning curves, scores, the images, and views with their labels.

Every function takes data and the path of the one file it writes. Accuracies come as fractions and are percent on paper.
"""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from rd3_utils import files
from rd3_utils.data import views as view_sets
from rd3_utils.data.images import ImageSet
from rd3_utils.data.views import Views
from rd3_utils.protocols.recipe import Recipe
from rd3_utils.scoring import report as reports
from rd3_utils.scoring.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BYTES = 150_000  # of one file; a larger picture gets a palette of fewer colours
DPI = 100
GRID_COLUMNS = 10
PIXELS = 120_000  # different pixels that a sheet of images may show, so that noise too stays below MOST_BYTES
COLOURS = {  # Okabe & Ito, distinct for colour-blind readers: https://jfly.uni-koeln.de/color
    "distilled-soft": "#0072B2",
    "random-soft": "#E69F00",
    "distilled-hard": "#009E73",
    "random-hard": "#D55E00",
    "distilled-plain": "#56B4E9",
    "random-plain": "#CC79A7",
    "full-hard": "#444444",
}


def learning_curves(runs: list[Run], path: Path) -> None:
    """Training loss and learning rate per epoch of all `runs`, a thin line each; test accuracy where it was monitored.

    A column holds the arms of one protocol and one kind of labels: between columns losses are not comparable.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: reports.order_of(run.arm)):
        columns.setdefault((run.protocol.name, run.arm.split("-")[1]), []).append(run)
    monitored = any("test_top1" in entry for run in runs for entry in run.history)
    heights = [3, 1, 2] if monitored else [3, 1]
    figure = new_figure(max(7.6, 4.2 * len(columns)), 1.1 * sum(heights) + 0.8, layout="constrained")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # as it was asked for
    engine.set(w_pad=0.1)
    panels = figure.subplots(len(heights), len(columns), squeeze=False, sharex="col", height_ratios=heights)
    for column, ((protocol, labels), mine) in zip(panels.T, columns.items()):
        loss = mine[0].recipe["loss"]
        temperature = "" if loss["name"].startswith("ce") else f", T = {loss['temperature']:g}"
        column[0].set_title(without_mathematics(f"{protocol}, {labels} labels"), fontsize=10)
        column[0].set(yscale="log", ylabel=f"training loss ({loss['name']}{temperature})")
        draw_lines(column[0], mine, "loss")
        column[0].legend(fontsize=8, frameon=False, reverse=True)
        column[1].set_ylabel("learning rate")
        draw_lines(column[1], mine, "learning_rate")
        column[1].set_ylim(bottom=0)
        if monitored:
            draw_lines(column[2], mine, "test_top1", factor=100)
            column[2].set_ylabel("test top-1 (%)")
            column[2].set_title("monitored, not the score", fontsize=9, style="italic")
        column[-1].set_xlabel("epoch")
    title = f"Learning curves of {runs[0].student}: thin, single runs; thick, the mean over runs and nearby epochs"
    figure.suptitle(without_mathematics(title), fontsize=10)
    save_figure(figure, path)


def draw_lines(axes: "Axes", runs: list[Run], key: str, factor: float = 1) -> None:
    """A thin line per Run for `key` of its history; a thick mean per arm, of losses also over 5 % of the epochs."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    for arm in reversed(arms):  # the first on top
        histories = [[e for e in run.history if key in e] for run in runs if run.arm == arm]
        histories = [history for history in histories if history]
        lines = [(np.array([e["epoch"] for e in h]), factor * np.array([e[key] for e in h])) for h in histories]
        for epochs, values in lines:
            axes.plot(epochs, values, color=COLOURS[arm], linewidth=0.6, alpha=0.25, zorder=2)
        if lines and all(len(epochs) == len(lines[0][0]) for epochs, _ in lines):
            width = max(1, len(lines[0][0]) // 20) if key == "loss" else 1
            mean = np.mean([values for _, values in lines], axis=0)
            smooth = np.convolve(mean, np.full(width, 1 / width), "valid")  # [epochs - width + 1]
            name = f"{arm} ({len(lines)} {'runs' if len(lines) > 1 else 'run'})"
            marker = "." if key == "test_top1" else None
            style: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 1.6, "zorder": 3}
            axes.plot(lines[0][0][(width - 1) // 2 :][: len(smooth)], smooth, color=COLOURS[arm], label=name, **style)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def scores(report: dict, runs: list[Run], path: Path) -> None:
    """Top-1 of every arm: mean, standard deviation and every single run as a dot; a panel per student."""
    students = list(report["arms"])
    most = [len(report["arms"][student]) for student in students]
    figure = new_figure(7.6, 0.9 + sum(0.45 * n + 0.45 for n in most), layout="constrained")
    panels = figure.subplots(len(students), 1, squeeze=False, sharex=True, height_ratios=most)[:, 0]
    for axes, student in zip(panels, students):
        arms = report["arms"][student]
        for place, (arm, summary) in enumerate(arms.items()):
            values = [100 * run.top1 for run in runs if (run.student, run.arm) == (student, arm)]
            offsets = 0.22 + 0.05 * (np.arange(len(values)) % 3)  # below the mean, side by side where runs are alike
            axes.plot(values, place + offsets, "o", color=COLOURS[arm], markersize=3.5, alpha=0.5, markeredgewidth=0)
            axes.errorbar(100 * summary["mean"], place, xerr=100 * (summary["std"] or 0), fmt="o", markersize=7,
                          color=COLOURS[arm], capsize=4, linewidth=1.6)  # fmt: skip
            at_right = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
            axes.annotate(mean_plus_minus(summary), (1.02, place), **at_right)
        axes.set_yticks(range(len(arms)), arms, fontsize=9)
        axes.set_ylim(len(arms) - 0.4, -0.6)
        title = f"{student} on {runs[0].benchmark} under {reports.protocol_text(runs[0])}"
        axes.set_title(without_mathematics(title), fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    low, high = panels[-1].get_xlim()
    panels[-1].set_xlim(max(0, low), min(101, high))
    panels[-1].set_xlabel(f"top-1 (% of the {runs[0].images_scored} test images): mean, std, and single runs below")
    save_figure(figure, path)


def mean_plus_minus(summary: dict) -> str:
    """ "82.33 ± 0.46  (n = 3)" in percent."""
    std = f" ± {reports.percent(summary['std'])}" if summary["std"] is not None else ""
    return f"{reports.percent(summary['mean'])}{std}  (n = {summary['n']})"


def image_grid(images: ImageSet, path: Path) -> None:
    """The pixels of `images` by class: all, or so many per class that at most 100 are shown, which the title says.

    Of images above 34 px at most 50 are shown, and shrunk where needed.
    """
    most = 100 if images.images.shape[-1] <= 34 else 50
    classes = evenly(len(images.class_names), most)
    each = max(1, most // len(classes))
    rows = {k: (images.labels == k).nonzero().flatten() for k in classes}
    shown = sum(len(mine[:each]) for mine in rows.values())
    tiles, size_text = shrunk_images(images.images, {k: mine[:each] for k, mine in rows.items()}, shown)
    if max(len(mine) for mine in tiles.values()) == 1:
        flat = [(tile, shortened(images.class_names[k], 16)) for k, mine in tiles.items() for tile in mine]
        lines = [("", flat[i : i + GRID_COLUMNS]) for i in range(0, len(flat), GRID_COLUMNS)]
    else:
        lines = [
            (images.class_names[k] if i == 0 else "", [(tile, "") for tile in mine[i : i + GRID_COLUMNS]])
            for k, mine in tiles.items()
            for i in range(0, len(mine), GRID_COLUMNS)
        ]
    parts = [f"all {shown} images" if shown == len(images) else f"{shown} of {len(images)} images"]
    per_class = images.nominal_ipc
    parts.append(f"{per_class} per class" if per_class <= each else f"{each} of {per_class} per class")
    parts += [f"{len(classes)} of {len(images.class_names)} classes"] if len(classes) < len(images.class_names) else []
    sheet(lines, f"{images.name}: {', '.join(parts)}, {size_text}", path)


def view_grid(images: ImageSet, views: Views, logits: torch.Tensor | None, recipe: Recipe, path: Path) -> None:
    """Some views of one epoch exactly as `views.apply` makes them, and under each what the student is told of it.

    That is the teacher's two likeliest classes at temperature 1; with hard labels (`logits` None) the class, or both
    classes and their shares where labels are mixed with the images.
    """
    chosen = torch.tensor(evenly(len(images), 2 * GRID_COLUMNS))
    x = view_sets.apply(images.images, views, chosen, recipe.mean, recipe.std)  # [b, 3, S, S]
    mean, std = (torch.tensor(value)[:, None, None] for value in (recipe.mean, recipe.std))
    pixels = (255 * (x * std + mean)).round().clamp(0, 255).to(torch.uint8)
    tiles, size_text = shrunk_images(pixels, {0: torch.arange(len(chosen))}, len(chosen))
    captions = [told(images, views, logits, recipe, row) for row in chosen]
    flat = list(zip(tiles[0], captions))
    lines = [("", flat[i : i + GRID_COLUMNS]) for i in range(0, len(flat), GRID_COLUMNS)]
    says = "their labels"
    if logits is not None:
        says = f"the teacher's two likeliest classes at temperature 1 (the loss has {recipe.loss.temperature:g})"
    sheet(lines, f"{images.name}: {len(chosen)} views of one epoch with {says}, {size_text}", path)


def told(images: ImageSet, views: Views, logits: torch.Tensor | None, recipe: Recipe, row: torch.Tensor) -> str:
    """The label of one view as lines "class: share %"; a mixed one's own class first."""
    shares: torch.Tensor | list[float]
    classes: torch.Tensor | list[torch.Tensor]
    if logits is not None:
        shares, classes = logits[row].softmax(0).topk(min(2, logits.shape[1]))
    elif recipe.loss.name == "ce_mixed" and views.mix_partner[row] != row:
        own = float(views.own_share(row[None], recipe.image_size))
        shares, classes = [own, 1 - own], [images.labels[row], images.labels[views.mix_partner[row]]]
    else:
        return shortened(images.class_names[images.labels[row]], 16)
    names = [shortened(images.class_names[k], 9) for k in classes]
    return "\n".join(f"{name}: {100 * share:.0f} %" for name, share in zip(names, shares))


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of the numbers below `n`, evenly spaced."""
    return [i * n // min(n, most) for i in range(min(n, most))]


def shrunk_images(pixels: torch.Tensor, rows: dict[int, torch.Tensor], count: int) -> tuple[dict[int, list[np.ndarray]], str]:
    """({key: [tile uint8 [s, s, 3]]}, what was done to the size): nearest-neighbour up, area average down.

    `pixels` uint8 [N, 3, S, S]; `rows` {key: rows}; `count` tiles in all share the budget of PIXELS.
    """
    size = pixels.shape[-1]
    side = min(size, math.isqrt(PIXELS // count))
    scale = max(1, 64 // side)
    text = f"enlarged {scale} times" if scale > 1 else f"{side} px"
    text = f"shrunk from {size} to {side} px" if side < size else text

    def tile(row: torch.Tensor) -> np.ndarray:
        picture = Image.fromarray(pixels[row].permute(1, 2, 0).numpy())
        picture = picture.resize((side, side), Image.Resampling.BOX) if side < size else picture
        return np.asarray(picture.resize((side * scale, side * scale), Image.Resampling.NEAREST))

    return {key: [tile(row) for row in mine] for key, mine in rows.items()}, text


def sheet(lines: list[tuple[str, list[tuple[np.ndarray, str]]]], title: str, path: Path) -> None:
    """A picture of `lines`: (name at the left, [(tile uint8 [s, s, 3], caption below)]), no tile resampled."""
    side = lines[0][1][0][0].shape[0]
    captions = [caption for _, tiles in lines for _, caption in tiles]
    deepest = max(caption.count("\n") + 1 if caption else 0 for caption in captions)
    left = 12 + 7 * max(len(shortened(name, 18)) for name, _ in lines)
    step_x, step_y = max(side, 86 if deepest else side) + 8, side + 8 + 14 * deepest
    top = 34
    width = max(left + step_x * max(len(tiles) for _, tiles in lines) + 8, 7 * len(title) + 20)
    height = top + step_y * len(lines) + 4
    canvas = np.full((height, width, 3), 255, np.uint8)
    texts: list[tuple[float, float, str, dict[str, Any]]] = [(10, 10, title, {"fontsize": 9, "va": "top"})]
    for i, (name, tiles) in enumerate(lines):
        y = top + i * step_y
        texts.append((left - 8, y + side / 2, shortened(name, 18), {"fontsize": 8, "ha": "right", "va": "center"}))
        for j, (tile, caption) in enumerate(tiles):
            x = left + j * step_x + (step_x - 8 - side) // 2
            canvas[y : y + side, x : x + side] = tile
            texts.append((x + side / 2, y + side + 3, caption, {"fontsize": 7.5, "ha": "center", "va": "top"}))
    figure = new_figure(width / DPI, height / DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(canvas, interpolation="nearest")  # one canvas pixel is one pixel of the file
    for x, y, text, style in texts:
        axes.text(x, y, text, parse_math=False, **style)
    save_figure(figure, path)


def shortened(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def without_mathematics(text: str) -> str:
    """`text` for matplotlib, which would read $...$ as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float, **arguments: Any) -> "Figure":
    """A figure of `width` x `height` inches that no global state knows; matplotlib's import may build a font cache."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **arguments)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` as a PNG of at most about MOST_BYTES, without a date."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    picture = Image.open(drawn).convert("RGB")
    for colours in (None, 256, 64, 16):
        coded = io.BytesIO()
        (picture.quantize(colours) if colours else picture).save(coded, format="png", optimize=True)
        if coded.tell() <= MOST_BYTES:
            break
    files.write_whole(path, coded.getvalue())  # several cells may write one card
