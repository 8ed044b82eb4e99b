"""Accuracy against cost as SVG inside a page: drawn by matplotlib, coloured by the page's own style sheet, dark or light.

No colour and no style attribute is left in the SVG: a strict Content-Security-Policy lets it through, and a class of the
page decides what ink is. Each point is a link to its row with its numbers as title.
"""

import io
import re
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = 8  # colours that the style sheet has; further methods are drawn in the last one
NAME_SIZE = 9  # size of names, in typographic points
NAMED_POINTS = 14  # points of the front that are named in the picture
SERIES_COLOURS = {"#010101": "ink", "#020202": "muted", "#030303": "line", "#040404": "paper"}
SERIES_COLOURS |= {f"#0505{10 + k}": f"series-{k}" for k in range(SERIES)}
OF = {name: colour for colour, name in SERIES_COLOURS.items()}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Point:
    """One entry: its cost, mean and std of its top-1 (fractions), and where its row is."""

    x: float
    mean: float
    std: float | None
    label: str  # short, beside the point
    title: str  # all of it, for a pointer or a screen reader
    href: str
    series: str  # points of one have one colour


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in cost and accuracy, cheapest first."""
    best_points: list[Point] = []
    best = -1.0
    for point in sorted(points, key=lambda p: (p.x, -p.mean)):
        if point.mean > best:
            best_points.append(point)
            best = point.mean
    return best_points


def figure(points: Sequence[Point], series: list[str], x_label: str, name: str, prefix: str) -> str:
    """The <svg> of `points`, coloured by the order of their series in the list `series`.

    `name` is its text for screen readers, `prefix` makes its ids its own in the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rd3", "font.size": 10, "path.simplify": False}):
        drawn = Figure(figsize=(5.6, 3.7), layout="constrained")
        drawn.patch.set_visible(False)
        axes = drawn.subplots()
        draw_pareto(axes, points, series, x_label)
        text = io.StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return cleaned(text.getvalue(), points, name, prefix)


def draw_pareto(axes: "Axes", points: Sequence[Point], series: list[str], x_label: str) -> None:
    """Points, the front as steps, and names: of all points where they are few, else of those on the front."""
    from matplotlib.ticker import FixedLocator, LogLocator

    axes.patch.set_visible(False)
    if min(point.x for point in points) > 0:
        axes.set_xscale("log")
    else:
        least = min((point.x for point in points if point.x > 0), default=1)
        axes.set_xscale("symlog", linthresh=least / 2, linscale=0.3)
    positive = [point.x for point in points if point.x > 0] or [1]
    low, high = min(positive) / 2.5, 2.5 * max(positive)  # at least two of 1, 2, 5, 10, ... lie between them
    ticks = LogLocator(subs=(1, 2, 5), numticks=9).tick_values(low, high)
    zero = [0] if len(positive) < len(points) else []
    axes.xaxis.set_major_locator(FixedLocator([*zero, *(tick for tick in ticks if low <= tick <= high)]))
    if not zero and high < 2.5**3 * low:  # costs that are all but equal
        axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    best = front(points)
    end = max(point.x for point in points)
    xs, ys = [point.x for point in best] + [end], [100 * point.mean for point in best]
    axes.step(xs, [*ys, ys[-1]], where="post", color=OF["muted"], linewidth=1, alpha=0.7, zorder=1)
    for i, point in enumerate(points):
        colour = OF[f"series-{min(series.index(point.series), SERIES - 1)}"]
        if point.std:
            between = [100 * (point.mean - point.std), 100 * (point.mean + point.std)]
            axes.plot([point.x] * 2, between, color=colour, linewidth=1.2)
        axes.plot([point.x], [100 * point.mean], "o", color=colour, markersize=7, gid=f"point{i}", zorder=3)
    axes.set_xlabel(x_label, color=OF["muted"])
    axes.set_ylabel("top-1 %", color=OF["muted"])
    axes.margins(x=0.14, y=0.16)
    axes.grid(axis="y", color=OF["line"], alpha=0.6, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(OF["line"])
    axes.tick_params(which="both", color=OF["line"], labelcolor=OF["muted"])
    named = points if len(points) <= NAMED_POINTS else best[:NAMED_POINTS]
    for point, (x, y, side) in zip(named, name_positions(axes, named)):
        text = axes.annotate(
            point.label,
            (point.x, 100 * point.mean),
            (x, y),
            textcoords="offset points",
            ha=side,
            fontsize=NAME_SIZE,
            color=OF["ink"],
            parse_math=False,
            annotation_clip=False,
        )
        text.set_in_layout(False)  # a long name does not shrink the picture


def name_positions(axes: "Axes", points: Sequence[Point]) -> list[tuple[float, float, Literal["left", "right"]]]:
    """[(x, y, "left" | "right")]: where the names of `points` go, in typographic points from each, the highest first served.

    A name stands to the right of its point, or to the left where there is no room, and below one that it would cover.
    """
    axes.autoscale_view()  # the limits are otherwise found when it is drawn
    scale = 72 / axes.figure.dpi
    at = [tuple(scale * axes.transData.transform((point.x, 100 * point.mean))) for point in points]
    first, last = min(x for x, _ in at), max(x for x, _ in at)
    positions: dict[int, tuple[float, float, Literal["left", "right"]]] = {}
    taken: list[tuple[float, float, float]] = []  # (left, right, baseline) of names
    for i in sorted(range(len(points)), key=lambda i: -at[i][1]):
        x, y = at[i]
        to_left = x > first + 0.7 * (last - first)
        width = 0.6 * NAME_SIZE * len(points[i].label)
        span = (x - 9 - width, x - 9) if to_left else (x + 7, x + 7 + width)
        base = y + (-3 if to_left else 5)
        for left, right, other in taken:  # from top to bottom
            if left < span[1] and span[0] < right and abs(other - base) < NAME_SIZE + 1:
                base = other - NAME_SIZE - 1
        taken = sorted([*taken, (*span, base)], key=lambda one: -one[2])
        positions[i] = (-9 if to_left else 7, base - y, "right" if to_left else "left")
    return [positions[i] for i in range(len(points))]


def cleaned(text: str, points: Sequence[Point], name: str, prefix: str) -> str:
    """The SVG `text` of matplotlib without styles: presentation attributes and classes instead, points as links."""
    xml.register_namespace("", SVG)
    root = xml.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        style_as_classes(element)
        number = re.fullmatch(r"point(\d+)", element.get("id", ""))
        if number:
            make_link(element, points[int(number[1])])
        own_ids(element, prefix)
        if number:
            element.set("href", points[int(number[1])].href)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", "plot")
    root.set("role", "group")
    root.set("aria-label", name)
    return xml.tostring(root, encoding="unicode")


def style_as_classes(element: xml.Element) -> None:
    """Replace an element's style attribute: colours become classes of the page, all else attributes of their own."""
    classes = []
    element.attrib.pop("font-family", None)
    style = dict(part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part)
    for key, value in {**style, **{k: element.get(k, "") for k in ("fill", "stroke") if element.get(k)}}.items():
        key, value = key.strip(), value.strip()
        if value in SERIES_COLOURS:
            classes.append(f"{key}-{SERIES_COLOURS[value]}")
            element.attrib.pop(key, None)
        elif key == "font":
            size = re.search(r"([\d.]+)px", value)
            assert size  # matplotlib writes font: SIZEpx 'NAME'
            element.set("font-size", size[1])
        elif key == "font-family":
            continue
        else:
            element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))


def make_link(element: xml.Element, point: Point) -> None:
    """Make the group of a point's marks a link with a title."""
    element.tag = f"{{{SVG}}}a"
    element.set("class", "point")
    title = xml.Element(f"{{{SVG}}}title")
    title.text = point.title
    element.insert(0, title)


def own_ids(element: xml.Element, prefix: str) -> None:
    """Begin an element's id, and what it refers to in this SVG, with `prefix`: a page has several plots."""
    if element.get(f"{{{XLINK}}}href"):
        element.set("href", element.attrib.pop(f"{{{XLINK}}}href"))
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{prefix}-{value}")
        elif key == "href":
            element.set(key, f"#{prefix}-{value[1:]}")
        elif value.startswith("url(#"):
            element.set(key, f"url(#{prefix}-{value[5:]}")
