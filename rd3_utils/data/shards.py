"""Where the files of a label store lie: a local folder, or a folder of a Hub dataset repo that is fetched as it is read."""

import contextlib
import os
import sys
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from pathlib import Path, PurePosixPath

from filelock import FileLock
from huggingface_hub import constants

from rd3_utils import bounded, hub, limits, units
from rd3_utils.data import sources
from rd3_utils.data.sources import Source
from rd3_utils.errors import UserError
from rd3_utils.hub import TRIES, file_sha256

STREAMED = Path(constants.HF_HOME) / "rd3" / "labels"
PATIENCE = 10  # seconds after which a waiting training says what it waits for


class Folder:
    """Shards in a local folder."""

    def __init__(self, where: Path | str) -> None:
        self.where = Path(where)
        self.checked: set[Path] = set()

    def __str__(self) -> str:
        return str(self.where)

    def path(self, entry: dict) -> Path:
        """The file of an index entry, its SHA-256 checked; UserError if it is missing or damaged."""
        path = self.where / Path(entry["file"]).name
        if not path.is_file():
            raise UserError(f"{path} is missing though index.json names it; make or fetch the labels again.")
        if (size := path.stat().st_size) != entry["bytes"]:  # before so many are hashed
            raise UserError(
                f"{path} has {size} bytes, index.json says {entry['bytes']}: "
                "the file is damaged; make or fetch the labels again."
            )
        sha256 = entry["sha256"] if path in self.checked else file_sha256(path)
        if sha256 != entry["sha256"]:
            raise UserError(
                f"{path} has SHA-256 {sha256[:12]}..., index.json says {entry['sha256'][:12]}...: "
                "the file is damaged; make or fetch the labels again."
            )
        self.checked.add(path)
        return path

    def index(self) -> Path:
        """The path of index.json."""
        return self.where / "index.json"

    def soon(self, entry: dict) -> None:
        """Nothing to do: the file is there."""

    def drop(self, keep: Collection[str], coming: int = 0) -> None:
        """Nothing to do: the files are the user's."""

    @property
    def origin(self) -> dict:
        """Where the labels came from, as a Run records it: nothing, they lie here."""
        return {}


def stores_on_hub(source: Source | str, limit: float | None = None) -> "dict[str, HubFolder]":
    """{path in the repo: HubFolder} of the label stores in OWNER/REPO[@REVISION][:PATH]; UserError where there is none."""
    source = sources.parse(source)
    repo, path = source.name, source.config
    commit = hub.commit(repo, source.revision)
    folders = [str(PurePosixPath(file).parent) for file in hub.index_files(repo, commit)]
    under = [folder for folder in folders if path is None or PurePosixPath(folder).is_relative_to(path)]
    if not under:
        raise UserError(
            f"{source} holds no soft labels" + (f"; {repo} has some in {', '.join(folders[:3])}." if folders else ".")
        )
    return {folder: HubFolder(repo, commit, folder, limit) for folder in under}


class HubFolder:
    """Shards in a folder of a Hub dataset repo at one commit, fetched in the background, once per machine.

    Without `limit` they stay in the Hub's cache; with it (bytes), used ones are removed once more than that lie here.
    """

    def __init__(self, repo: str, commit: str, where: str, limit: float | None = None) -> None:
        self.repo, self.commit, self.where, self.limit = repo, commit, where, limit
        self.folder = None if limit is None else STREAMED / f"{repo.replace('/', '--')}@{commit[:8]}"
        self.locks = STREAMED / "locks" / f"{repo.replace('/', '--')}@{commit[:8]}"
        self.pool = ThreadPoolExecutor(1)
        self.coming: dict[str, Future[Path]] = {}
        self.checked: set[Path] = set()

    def __str__(self) -> str:
        return sources.in_repo(self.repo, self.where, self.commit[:8]).text

    def path(self, entry: dict) -> Path:
        """The local copy of an index entry's file, its SHA-256 checked; says so when it has to be waited for."""
        self.soon(entry)
        coming = self.coming.pop(entry["file"])
        while True:
            try:
                return coming.result(timeout=PATIENCE)
            except TimeoutError:
                if is_first_here():
                    print(f"waiting for {entry['file']} ({units.size(entry['bytes'])}) of {self}", file=sys.stderr, flush=True)

    def index(self) -> Path:
        """The local copy of index.json, fetched again where it came damaged."""
        for attempt in range(TRIES):
            path = hub.download(self.repo, self.commit, f"{self.where}/index.json", again=attempt > 0)
            with contextlib.suppress(bounded.Refused):
                bounded.read_json(path, limits.MOST_INDEX_BYTES, "an index of labels")
                break
        return path

    def soon(self, entry: dict) -> None:
        """Begin to fetch an entry's file in the background."""
        if entry["file"] not in self.coming:
            self.coming[entry["file"]] = self.pool.submit(self.fetch, entry)

    def fetch(self, entry: dict) -> Path:
        """Download, check, download again what came wrong; one process of this machine at a time."""
        name = Path(entry["file"]).name
        self.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self.locks / f"{self.where.replace('/', '--')}--{name}.lock"):
            for attempt in range(TRIES):
                path = hub.download(self.repo, self.commit, f"{self.where}/{name}", self.folder, again=attempt > 0)
                try:
                    sha256 = entry["sha256"] if path in self.checked else file_sha256(path)
                except FileNotFoundError:  # another command dropped it
                    return path  # which whoever opens it notices
                if sha256 == entry["sha256"]:
                    self.checked |= {path} if self.limit is None else set()
                    return path
        raise UserError(
            f"{name} of {self} came {TRIES} times with SHA-256 {sha256[:12]}..., index.json says {entry['sha256'][:12]}...: "
            "the repo is damaged; ask its owner to publish it again."
        )

    @property
    def origin(self) -> dict:
        """Where the labels came from, as a Run records it."""
        return {"source": sources.in_repo(self.repo, self.where).text, "commit": self.commit}

    def drop(self, keep: Collection[str], coming: int = 0) -> None:
        """Remove shards other than `keep` (file names) if those of the repo here and `coming` bytes exceed the limit.

        Readers of a removed file go on.
        """
        if self.folder is None or self.limit is None or not is_first_here():
            return
        here = {path: size_of(path) for path in self.folder.rglob("labels-*.safetensors")}
        if sum(here.values()) + coming > self.limit:
            for path in here:
                if path.parent != self.folder / self.where or path.name not in keep:
                    path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where another command has removed it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_first_here() -> bool:
    """Whether this is the first process of this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0
