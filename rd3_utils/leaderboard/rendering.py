"""How pages become HTML: Jinja with autoescape, style and script inline and allowed by their hash alone."""

import base64
import hashlib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path

import jinja2

from rd3_utils import units
from rd3_utils.errors import UserError
from rd3_utils.leaderboard.claims import comparable
from rd3_utils.leaderboard.rows import signed
from rd3_utils.scoring import bootstrap
from rd3_utils.scoring import report as reports
from rd3_utils.text import show

TEMPLATES = Path(__file__).with_name("templates")
BUNDLE = re.compile(r"export\{([^{}]*)\};?\s*")


def csp(script: str, style: str) -> str:
    """The Content-Security-Policy of a page: nothing but its own script and style, known by their hashes."""
    allowed = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (script, style)]
    script_src = allowed[0] if script else "'none'"
    return (
        f"default-src 'none'; script-src {script_src}; style-src {allowed[1]}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@lru_cache
def jinja_environment() -> jinja2.Environment:
    """The Jinja environment of the templates: everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": reports.percent, "size": units.size, "duration": units.duration}
    environment.filters |= {"show": show, "signed": signed}
    environment.globals |= {"interval_method": bootstrap.METHOD, "comparable": comparable}
    return environment


@lru_cache
def style() -> str:
    return (TEMPLATES / "style.css").read_text("utf-8")


@lru_cache
def script() -> str:
    """The board's script: DataTables, as the package itables carries it for pages without a network, then ours."""
    package = importlib.util.find_spec("itables")
    assert package and package.submodule_search_locations  # a package that is required
    bundle = Path(package.submodule_search_locations[0], "html", "dt_bundle.js").read_text("utf-8")
    exported = BUNDLE.search(bundle)
    pairs = [pair.split(" as ") for pair in exported[1].split(",")] if exported else []
    names = {name: local for local, name in pairs}
    ours = (TEMPLATES / "board.js").read_text("utf-8")
    if "default" not in names or "</script" in (bundle + ours).lower():
        raise UserError("this version of itables carries DataTables in another form; install the one in requirements.txt.")
    text = BUNDLE.sub(lambda _: f"globalThis.DataTable={names['default']};\n", bundle, count=1)
    return f"{text}\n{ours}"
