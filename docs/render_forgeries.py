"""Make docs/forgeries.md of the table in tests/test_forgeries.py, where every row is tried.

python docs/render_forgeries.py
"""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from rd3_utils.verification import as_trained

INTRO = """# Ways to cheat, and how each is noticed

Every row is tried by `tests/test_forgeries.py`: somebody edits files, renews the hashes in them, and a test looks at who
notices. A hash proves nothing against whoever wrote the file, so what a function of ours can recompute is recomputed. Three
things may happen, and silence is none of them.

| caught by | means |
| --- | --- |
| **reading** | training, scoring or the board refuses the file, in one line that says why; nobody has to ask |
| **`verify`** | `python -m rd3_utils verify SOURCE` computes the claim again and says **contradicted**, with both values |
| *stated* | nothing in the files can tell; `verify` says *not checkable*, or the page says what it rests on |

**What `verify` can tell.** Whatever follows from something else: digest, recipe, steps and rates from the protocol; the
numbers of cards and boards from the Runs; top-1 and top-5 from the weights and the test split; random images, views and
fingerprints from the real data and a seed; labels from teacher and views.

**What it cannot tell.** That these weights were trained as the Run says: `--retrain` trains the student again and compares.
Without that a score reads *these weights score this*. Where no weights were kept, it is the publisher's word. And nothing tells
what was left out: seeds and draws that were tried and thrown away, or what was looked at before images and labels were made.

## What only its publisher knows

Of a Run this is *stated*: nothing in the file tells it, and a board ranks it all the same. `verify` finds some of it out, where
it has the real data, the network and the teacher.

"""
FURTHER = """## Further ones

Forgeries of the same kinds that other tests try, and how each is refused by reading.

"""
MARKS = {"reading": "**reading**", "verify": "**`verify`**", "stated": "*stated*"}


def table(rows: list[list[str]]) -> str:
    """A Markdown table whose cells are Markdown; the first row is its header."""
    header, *body = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body])


def page() -> str:
    """The page as Markdown."""
    import test_forgeries as tried

    stated = [[", ".join(f"`{field}`" for field in fields.split(", ")), why] for fields, why in as_trained.STATED.items()]
    parts = [INTRO.rstrip(), table([["of a Run", "why"], *stated])]
    counts = {mark: sum(row.caught == caught for row in tried.FORGERIES) for caught, mark in MARKS.items()}
    counted = ", ".join(f"{count} {mark}" for mark, count in counts.items())
    parts.append(f"## {len(tried.FORGERIES)} forgeries\n\n{counted}. Somebody ...")
    for kind in dict.fromkeys(row.kind for row in tried.FORGERIES):
        rows = [[row.text, MARKS[row.caught], f"`{row.words}`"] for row in tried.FORGERIES if row.kind == kind]
        parts += [f"### {kind}", table([["forgery", "caught by", "what is said"], *rows])]
    parts.append(FURTHER.rstrip())
    for title, test, names in tried.elsewhere():
        parts.append(f"**{title}** ({len(names)}, `{test}`): {'; '.join(names)}.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (PROJECT / "docs/forgeries.md").write_text(page())
