"""The Hugging Face Hub, in: files and names at a commit. Others read the local copies of these files, and look up no repo.

Every other module receives a 40-hex commit and never a moving name. Nothing that comes from the Hub is unpickled or run.
What goes out, through pushing.py, waits and fails as here. No other module asks the Hub.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from huggingface_hub import (
    HfApi,
    RepoFile,
    constants,
    get_cached_repo_tree,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from rd3_utils.errors import UserError
from rd3_utils.files import write_whole

T = TypeVar("T")

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
RESOLVED = Path(constants.HF_HOME) / "rd3" / "commits"  # what names pointed to when last asked
LISTED = Path(constants.HF_HOME) / "rd3" / "files"  # which files a commit has, and their sizes
PASSING = {408, 429, 500, 502, 503, 504}  # answers that a later try may not get
LOST = (HfHubHTTPError, httpx.TransportError, ConnectionError)  # what a busy Hub and a broken line raise; the last is hf_xet's
WAITS = (1, 2, 4, 8)  # seconds before the next tries
SILENCE = 60  # seconds without a byte after which a call counts as lost
ANSWER = 10  # the same where only a name is looked up
TRIES = 3  # downloads of a file whose bytes are wrong
LONGEST_PAUSE = 60  # seconds: a Retry-After beyond that is not waited for
GATED = "{repo} is gated: accept its terms on its page and log in (hf auth login)."
AT_ONCE = 8  # small files that are fetched at a time
LARGE_AT_ONCE = 4  # of a dataset


def commit(repo: str, revision: str | None = None, repo_type: str = "dataset") -> str:
    """The 40-hex commit that `revision` (tag, branch, commit; default branch if None) of `repo` points to now.

    Offline, or where the Hub does not answer, it is the one that it pointed to when it was last asked here, and stderr says so.
    """
    cache = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{repo.replace('/', '--')}"

    def ask() -> str:
        about: Callable[..., Any] = HfApi().repo_info
        return retried(lambda: about(repo, revision=revision, repo_type=repo_type, timeout=ANSWER), WAITS[:2]).sha

    if revision and COMMIT_HASH.fullmatch(revision):
        if not (cache / "snapshots" / revision).is_dir():  # a dead Hub is noticed here in seconds, its clients try for long
            with asking(repo, revision, repo_type):
                ask()
        return revision
    known = RESOLVED / quote(f"{constants.ENDPOINT} {repo_type} {repo}@{revision or ''}", safe=" @")
    try:
        with asking(repo, revision, repo_type):
            found = ask()
    except UserError as error:
        cause = error.__cause__
        reachable = not isinstance(cause, LOST) or (status(cause) is not None and not may_pass(cause))
        # what this project asked last, else what another tool did
        said = (path for path in (known, cache / "refs" / (revision or "main")) if os.path.isfile(path))
        last = next((path.read_text().strip() for path in said), "")
        if reachable or not COMMIT_HASH.fullmatch(last):
            raise
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else one_line(cause)
        print(f"{repo}@{revision or 'main'} is taken as it last was, {last[:8]}: {why}", file=sys.stderr, flush=True)
        return last
    with contextlib.suppress(UserError):  # a cache that may only be read
        write_whole(known, found)
    return found


def index_files(repo: str, commit: str) -> list[str]:
    """Paths of every index.json of a dataset repo at `commit`; from the cache when they are there."""
    with asking(repo, commit, "dataset"):
        folder = Path(
            snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=["index.json", "*/index.json"])
        )
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("index.json"))
        if found:
            return found
        # of a commit of which other files are cached, the client gives what is here when the Hub is silent: ask again
        entries = retried(lambda: list(HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")))
        found = sorted(entry.path for entry in entries if PurePosixPath(entry.path).name == "index.json")
    for path in found:
        download(repo, commit, path)
    return found


def download(repo: str, commit: str, path: str, folder: Path | str | None = None, again: bool = False) -> Path:
    """The local copy of a file of a dataset repo, in the Hub's cache or under `folder`; `again` fetches it anew."""
    with asking(repo, commit, "dataset", path):
        found = hf_hub_download(repo, path, repo_type="dataset", revision=commit, local_dir=folder, force_download=again)
    return Path(found)


def files(repo: str, commit: str) -> dict[str, int]:
    """{path: bytes} of all files of a dataset repo at `commit`; asked once, then kept here.

    UserError where the Hub does not answer and none is kept: what lies in the cache may be only some of the files.
    """
    kept = LISTED / quote(f"{repo}@{commit}", safe="@")
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(kept.read_text("utf-8")))
    with asking(repo, commit, "dataset", "the list of its files"):
        try:  # the whole repo may have been fetched with other tools
            entries: list = get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
        except CachedRepoTreeNotFoundError:
            tree = HfApi().list_repo_tree
            entries = retried(lambda: list(tree(repo, recursive=True, revision=commit, repo_type="dataset")), WAITS[:2])
    found = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    with contextlib.suppress(UserError):  # a cache that may only be read
        write_whole(kept, json.dumps(found))
    return found


def downloads(repo: str, commit: str, paths: Iterable[str]) -> list[Path]:
    """[local copy of each of `paths`] of a dataset repo at `commit`, in the Hub's cache; several are fetched at a time."""

    def fetched(path: str) -> Path:
        with asking(repo, commit, "dataset", path):
            return Path(retried(lambda: hf_hub_download(repo, path, repo_type="dataset", revision=commit), WAITS[:2]))

    with ThreadPoolExecutor(LARGE_AT_ONCE) as pool:
        coming = [pool.submit(fetched, path) for path in paths]
        try:
            return [one.result() for one in coming]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after a fault, no more of them


def file_if_there(repo: str, commit: str, path: str) -> Path | None:
    """The local copy of a file of a dataset repo; None where it has none, or the Hub is silent and no copy is here.

    The Hub is asked once: what a commit lacks is remembered, too.
    """
    kept = try_to_load_from_cache(repo, path, repo_type="dataset", revision=commit)
    if kept is not None or constants.HF_HUB_OFFLINE:
        return Path(kept) if isinstance(kept, str) else None
    with asking(repo, commit, "dataset"):
        try:
            return Path(hf_hub_download(repo, path, repo_type="dataset", revision=commit))
        except (RemoteEntryNotFoundError, LocalEntryNotFoundError):
            return None


def models_tagged(tag: str, most: int) -> tuple[list[str], bool]:
    """(names of at most `most` model repos with `tag` on their card, whether there are more), sorted by name."""
    with asking(f"models tagged {tag}", None, "model"):
        found = retried(lambda: [model.id for model in HfApi().list_models(filter=[tag], limit=most + 1)], WAITS[:2])
    found = [name for name in found if REPO_ID.fullmatch(name)]
    return sorted(found[:most]), len(found) > most


def sizes(repo: str, commit: str, kind: str = "model", most: int = 100_000) -> dict[str, int]:
    """{path: bytes} of the first `most` files of a repo at `commit`, in the Hub's order."""
    with asking(repo, commit, kind):
        entries = itertools.islice(HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind), most)
        return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def copies(repo: str, commit: str, paths: Iterable[str], kind: str = "model") -> list[Path]:
    """[local copy of each of `paths`] of a repo at `commit`, in the Hub's cache."""

    def copy(path: str) -> Path:
        return Path(retried(lambda: hf_hub_download(repo, path, repo_type=kind, revision=commit)))

    with asking(repo, commit, kind), ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(copy, paths))


def small_file(repo: str, commit: str, path: str, most: int) -> Path | None:
    """The local copy of a file of at most `most` bytes of a model repo; None where it is not there, or cannot be had now."""
    known = try_to_load_from_cache(repo, path, revision=commit)
    if isinstance(known, str):
        return Path(known)
    with contextlib.suppress(UserError), asking(repo, commit, "model"):
        size = get_hf_file_metadata(hf_hub_url(repo, path, revision=commit), timeout=ANSWER).size
        if size is not None and size <= most:
            return Path(hf_hub_download(repo, path, revision=commit))
    return None


def page(repo: str, commit: str) -> str:
    """Where people see a model repo at `commit`."""
    return f"{constants.ENDPOINT}/{repo}/tree/{commit}"


def network_folder(repo: str, commit: str, also: Collection[str] = ()) -> Path:
    """A local folder with config.json and model.safetensors of a model repo, and of the rest only what `also` names, if there.

    UserError where it lacks one of them: weights in another format are pickles, which are not read from the Hub. Also where
    a file is damaged however often it is fetched.
    """
    for name in ("config.json", "model.safetensors", *also):
        for attempt in range(TRIES):
            with asking(repo, commit, "model"):
                try:
                    path = Path(hf_hub_download(repo, name, revision=commit, force_download=attempt > 0))
                except RemoteEntryNotFoundError as error:
                    if name in also:
                        break
                    raise UserError(
                        f"{repo}@{commit[:8]} has no {name}, wanted a network as timm saves it, with weights as safetensors; "
                        "ask its owner to convert it, or give another."
                    ) from error
            if not damaged(path):
                break
        else:
            raise UserError(
                f"{name} of {repo}@{commit[:8]} came {TRIES} times with other bytes than the Hub states; "
                "is something between here and there that changes files?"
            )
    return path.parent


def damaged(path: Path) -> bool:
    """Whether a file in the Hub's cache has other bytes than its name in there says, which is its SHA-256 or git's SHA-1."""
    stated = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", stated):
        return file_sha256(path) != stated
    return bool(COMMIT_HASH.fullmatch(stated)) and git_sha1(path.read_bytes()) != stated


@contextlib.contextmanager
def asking(repo: str, revision: str | None, repo_type: str, part: str = "") -> Iterator[None]:
    """What the Hub's clients raise about `repo`, as UserError that names the `part` that was wanted; none waits for ever."""
    wanted = f"{part} of {repo}" if part else repo
    hooks = get_session().event_hooks["request"]
    if not_for_ever not in hooks:
        hooks.append(not_for_ever)
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"'{repo}' cannot be the name of a repo: {one_line(error)}") from error
    except GatedRepoError as error:
        raise UserError(GATED.format(repo=repo)) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision '{revision}'; leave it out for the default branch.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"no {repo_type} repo '{repo}' at {constants.ENDPOINT}, or it is private and this login may not read it."
        ) from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{repo}@{(revision or 'main')[:8]} lacks a file that it names: {one_line(error)}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"HF_HUB_OFFLINE is set and {part or 'what is needed'} of '{repo}@{revision or 'main'}' is not in the cache: "
                "give the 40-hex commit to use a cached copy, or go online once."
            ) from error
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {wanted}: {one_line(error)}") from error
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {wanted}: {one_line(error)}") from error
    except OSError as error:
        raise UserError(f"files of {repo} cannot be read or kept here: {one_line(error)}") from error


def not_for_ever(request: httpx.Request) -> None:
    """Give a request of the Hub's clients a limit where it has none: some ask for no timeout at all."""
    limits = request.extensions.get("timeout", {})
    limits = {key: limits.get(key) or SILENCE for key in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": limits}


def git_sha1(data: bytes) -> str:
    """Git's name for a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def retried(call: Callable[[], T], waits: Iterable[float] | None = None) -> T:
    """`call()`, again after a while where the Hub was busy or the connection broke; `call` must bear being repeated."""
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            return call()
        except LOST as error:
            if wait is None or not may_pass(error):
                raise
            time.sleep(pause(error, wait))
    raise AssertionError("the last round returns or raises")


def status(error: BaseException | None) -> int | None:
    """The HTTP status of what a client raised, or None where no answer came."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: BaseException | None) -> bool:
    """Whether the same call may succeed later."""
    return not isinstance(error, OfflineModeIsEnabled) and (status(error) is None or status(error) in PASSING)


def pause(error: Exception, wait: float) -> float:
    """Seconds to wait: what the Hub asks for (Retry-After), else `wait`."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) and status(error) else ""
    return min(int(asked), LONGEST_PAUSE) if asked.isdigit() else wait


def one_line(error: BaseException | None) -> str:
    """An exception as one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
