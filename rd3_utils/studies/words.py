"""How a study report names places, spreads and changes, in its text and in its pictures."""

from rd3_utils.scoring.report import percent


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
    groups: dict[tuple, list[dict]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return groups


def count(entry: dict) -> str:
    """ "n = 3" or "3 draws, n = 9"."""
    return (f"{len(entry['draws'])} draws, " if len(entry["draws"]) > 1 else "") + f"n = {entry['n']}"
