"""distilled.json: what an image set says of itself. It lies beside the images, in a folder or in a repo's.

Its fingerprint is that of the pixels, labels and class names beside it, so a set that changed since is noticed when it is read.
That is against accidents: whoever forges a set renews the file.
"""

import re
from pathlib import Path
from typing import Any

from rd3_utils import bounded, hub
from rd3_utils.data import embedded
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError

NAME = "distilled.json"
SAVED = "train-00000-of-00001.parquet"  # how the images are called that it lies beside


def stated_by(source: Source, commit: str | None = None) -> dict[str, Any]:
    """What the distilled.json of an image set says, {} where there is none; UserError if it is no JSON object.

    Of a repo it is that at `commit`, beside the images of the config that `source` names; one that cannot be had says nothing.
    """
    if source.kind == "repo" and source.config and commit:
        path = hub.file_if_there(source.name, commit, f"{source.config}/{NAME}")
        return read(path, f"{source}/{NAME}") if path else {}
    top = embedded.EMBEDDED / source.name if source.kind == "name" else Path(source.name)
    if source.kind not in ("path", "name"):
        return {}
    folders = [top.parent] if top.name == SAVED else [top, *sorted(path.parent for path in top.glob(f"*/{SAVED}"))]
    return next((read(folder / NAME, str(folder / NAME)) for folder in folders if (folder / NAME).is_file()), {})


def read(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file at `path`, which messages call `name`."""
    try:
        return dict(bounded.read_json(path, kind="a distilled.json"))
    except (bounded.Refused, ValueError, TypeError) as error:
        raise UserError(f"{name} cannot be read ({hub.one_line(error)}); mend or remove it.") from error


def stated_fingerprint(about: dict[str, Any], benchmark: str) -> str | None:
    """The fingerprint that a distilled.json `about` states of its images as `benchmark` reads them; None: none of that."""
    stated = about.get("fingerprint")
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        return None
    return stated if about.get("benchmark", benchmark) == benchmark else None  # another one may order classes otherwise


def check_stated(about: dict[str, Any], fingerprint: str, name: str, benchmark: str) -> None:
    """UserError unless the images called `name` have the `fingerprint` that their distilled.json states, if it states one."""
    stated = stated_fingerprint(about, benchmark)
    if stated not in (None, fingerprint):
        raise UserError(
            f"{name} has fingerprint {fingerprint[:12]}, its {NAME} says {stated[:12]}: the images, labels or {NAME} changed "
            f"since it was written. Fetch or make the set again; if it was changed on purpose, remove or renew its {NAME}."
        )
