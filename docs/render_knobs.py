"""docs/knobs.md from the declarations of the knobs and losses: python docs/render_knobs.py"""

import dataclasses
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
from rd3_utils.protocols.knobs import COLUMNS, KNOBS, LOSSES  # noqa: E402
from rd3_utils.text import table  # noqa: E402

INTRO = """# Every knob of a protocol

A protocol file states each of these; `--set KEY=VALUE` changes one, and outputs then say custom. "Else" is what files mean that
came before the knob. Of views, "off" is the value under which a view is the image itself, as in the arm `plain`; "of" names the
knob without which one does nothing. "Stored" is what a label store holds of it per row and epoch. This page is made of the
declarations in `rd3_utils/protocols/knobs.py` by `python docs/render_knobs.py`.
"""
ADDING = """## To add one

A loss: a line in `LOSSES` of `rd3_utils/protocols/knobs.py` that says what it reads, and the function under the same name in
`LOSSES` of `rd3_utils/learning/losses.py`. A view operation: its knob, with the columns that it stores, in `ViewKnobs` of
`protocols/knobs.py`; what it draws and does as an `Operation` in `OPERATIONS` of `rd3_utils/data/augmentation.py`. Each with a
test against its formula or another library's; then `python docs/render_knobs.py`. All else derives from these, and
`tests/test_knobs.py` takes every knob and loss through range, digest, arm `plain`, label store, dry run and this page.
"""
READS = {"teacher": "teacher's logits", "temperature": "temperature", "hard_term": "hard_weight", "hard_target": "hard_target"}


def page() -> str:
    """The page as Markdown."""
    rows = [["knob", "type", "range", "else", "off, of", "stored", "what"]]
    for key, field in KNOBS.items():
        told = field.metadata
        kind = field.type.__name__ if isinstance(field.type, type) and not hasattr(field.type, "__args__") else str(field.type)
        later = "" if field.default is dataclasses.MISSING else shown(field.default)
        off = "; ".join([shown(told["plain"])] * (told["plain"] is not None) + [f"of {told['of']}"] * bool(told["of"]))
        stored = ", ".join(f"{column.key} {column.dtype}" for column in told["columns"])
        rows.append([key, kind, span(told), later, off, stored, told["text"]])
    losses = [["loss.name", "reads", "what"]]
    for name, loss in LOSSES.items():
        reads = [words for field, words in READS.items() if getattr(loss, field)] or ["classes alone"]
        losses.append([name, ", ".join(reads) + ("" if loss.mixed else "; not for mixed images"), loss.text])
    columns = [["column", "type", "of", "numbers per row", "what"]]
    for column in COLUMNS:
        numbers = "as the knob says" if callable(column.width) else str(column.width)
        columns.append([column.key, column.dtype, f"views.{column.knob}", numbers, column.text])
    parts = [table(rows), "## Losses", table(losses), "## Columns of a label store", table(columns)]
    return "\n\n".join([INTRO.rstrip(), *parts, ADDING])


def span(told) -> str:
    """The range of a knob as a person writes it."""
    if told["choices"]:
        return ", ".join(told["choices"])
    if told["wanted"]:
        return told["wanted"][1]
    if told["above"] is not None:
        return f"above {told['above']:g}"
    if told["most"] is not None:
        return f"{told['least']:g} to {told['most']:g}"
    return "" if told["least"] is None else f"at least {told['least']:g}"


def shown(value) -> str:
    """A value as TOML writes it, more or less."""
    return (
        {True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool)
        else str(list(value) if isinstance(value, tuple) else value)
    )


if __name__ == "__main__":
    (PROJECT / "docs/knobs.md").write_text(page())
