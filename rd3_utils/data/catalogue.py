"""The catalogue: public distilled sets by benchmark, method and images per class (catalogue.toml)."""

from dataclasses import dataclass
from pathlib import Path

from rd3_utils.bounded import read_toml
from rd3_utils.data import embedded, sources
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError, unknown
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.strict import build

CATALOGUE = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True)
class Publisher:
    """Sets that one publisher made in the same way; `repo` has the places {method} and {ipc}."""

    benchmark: str
    repo: str
    ipc: tuple[int, ...]
    made_by: str
    licence: str
    methods: dict  # method -> what it is


def publishers() -> list[Publisher]:
    """All Publishers of the catalogue."""
    return [build(Publisher, row, f"{CATALOGUE.name} [[publisher]]") for row in read_toml(CATALOGUE)["publisher"]]


def located(source: Source, benchmark: Benchmark) -> Source:
    """The embedded set or the Hub repo that METHOD:ipc=K means on a benchmark; any other Source as it is.

    UserError where the catalogue has sets of the benchmark and no such method or number of images per class.
    """
    method, ipc = source.name, source.ipc
    if source.kind != "method" or ipc is None:
        return source
    if (embedded.EMBEDDED / (name := f"{benchmark.name}-{method}-ipc{ipc}")).is_dir():
        return Source("name", name)
    publishers_of = {name: one for one in publishers() if one.benchmark == benchmark.name for name in one.methods}
    if not publishers_of:
        return source
    if method not in publishers_of:
        raise unknown(f"method of {benchmark.name} in the catalogue", method, publishers_of)
    publisher = publishers_of[method]
    if ipc not in publisher.ipc:
        raise UserError(
            f"the catalogue has {method} of {benchmark.name} at {', '.join(map(str, publisher.ipc))} images per class, "
            f"not at {ipc}; give OWNER/REPO or a path for another set."
        )
    return sources.repository(publisher.repo.format(method=method, ipc=ipc))
