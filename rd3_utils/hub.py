"""The Hugging Face Hub, in and out: the only code that asks it. `datasets` and `timm` then read at the commit named here.

Every other module receives a 40-hex commit and never a moving name. Nothing that comes from the Hub is unpickled or run.
What goes out goes in one commit on top of a known one, so that repeating a call after a lost answer changes nothing.
"""

import contextlib
import hashlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    constants,
    get_session,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id

from rd3_utils.errors import TagTaken, UserError
from rd3_utils.files import write_whole

T = TypeVar("T")
Files = Mapping[str, Path | bytes | None]  # what a repo is to hold: path -> source, or None for no such file
Build = Callable[[str, dict[str, RepoFile]], Files]  # of a commit and its listing

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
RESOLVED = Path(constants.HF_HOME) / "rd3" / "commits"  # what names pointed to when last asked
PASSING = {408, 429, 500, 502, 503, 504}  # answers that a later try may not get
LOST = (HfHubHTTPError, httpx.TransportError, ConnectionError)  # what a busy Hub and a broken line raise; the last is hf_xet's
WAITS = (1, 2, 4, 8)  # seconds before the next tries
SILENCE = 60  # seconds without a byte after which a call counts as lost
ANSWER = 10  # the same where only a name is looked up
TRIES = 3  # downloads of a file whose bytes are wrong
LONGEST_PAUSE = 60  # seconds: a Retry-After beyond that is not waited for
GATED = "{repo} is gated: accept its terms on its page and log in (hf auth login)."
AT_ONCE = 8  # small files that are fetched at a time
RECENT = 10  # pull requests in which equal files are looked for


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
        said = (path for path in (known, cache / "refs" / (revision or "main")) if path.is_file())
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
    with asking(repo, commit, "dataset"):
        found = hf_hub_download(repo, path, repo_type="dataset", revision=commit, local_dir=folder, force_download=again)
    return Path(found)


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
def asking(repo: str, revision: str | None, repo_type: str) -> Iterator[None]:
    """What the Hub's clients raise about `repo`, as UserError; none of their calls waits for ever."""
    hooks = get_session().event_hooks["request"]
    if not_for_ever not in hooks:
        hooks.append(not_for_ever)
    try:
        yield
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
                f"HF_HUB_OFFLINE is set and what is needed of '{repo}@{revision or 'main'}' is not in the cache: "
                "give the 40-hex commit to use a cached copy, or go online once."
            ) from error
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {repo}: {one_line(error)}") from error
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {repo}: {one_line(error)}") from error
    except OSError as error:
        raise UserError(f"files of {repo} cannot be read or kept here: {one_line(error)}") from error


def not_for_ever(request: httpx.Request) -> None:
    """Give a request of the Hub's clients a limit where it has none: some ask for no timeout at all."""
    limits = request.extensions.get("timeout", {})
    limits = {key: limits.get(key) or SILENCE for key in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": limits}


@dataclass(frozen=True)
class Target:
    """A repo to push to, and how."""

    repo: str
    kind: str  # model | dataset | space (a static one)
    private: bool = False  # of a repo that is made
    create_pr: bool = False
    tag: str | None = None

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'' if self.kind == 'model' else f'{self.kind}s/'}{self.repo}"


class Pushed(NamedTuple):
    """What a push did: the commit that has the files, where people see it, and whether it is a new one."""

    commit: str
    url: str
    new: bool


def may_push(target: Target, changes: bool = False) -> Any | None:
    """Check that this login may push to `target`; what the Hub says of it, or None where it has to be made.

    `changes` says that the push will surely change something, so that a tag on the present head cannot stay true.

    UserError for a name that is none, no token or a wrong one, a token that only reads, a repo of somebody else or one
    that this token may not write, and a tag or visibility that is another one already. Changes nothing; but whether a
    fine-grained token, or a member of an organisation, may make a repo can only be tried: there a missing one is made here.
    """
    api, repo = HfApi(), target.repo
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' cannot be the name of a repo: {one_line(error)}") from error
    if not REPO_ID.fullmatch(repo):
        raise UserError(f"'{repo}' cannot be the name of a repo; wanted OWNER/REPO.")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing can be pushed to {repo}; unset it.")
    if not get_token():
        raise UserError(f"pushing to {repo} needs a token: hf auth login, or HF_TOKEN with one that may write.")
    with writing(target):
        try:
            me = retried(api.whoami)
        except HfHubHTTPError as error:
            if status(error) == 401:
                raise UserError(
                    f"the Hub at {constants.ENDPOINT} does not know this token; get one with hf auth login."
                ) from error
            raise
        role = me.get("auth", {}).get("accessToken", {}).get("role", "write")
        if role == "read":
            raise UserError(f"the token of '{me['name']}' may only read; pushing to {repo} needs one that may write.")
        names, owner = [me["name"], *(org["name"] for org in me.get("orgs", []))], repo.split("/")[0]
        if owner not in names and not target.create_pr:
            raise UserError(
                f"{repo} belongs to '{owner}', this login to {', '.join(names)}: push to one of these, or add --create-pr."
            )
        about = info(target)
        if about is None:
            if target.create_pr:
                raise UserError(f"there is no {target.kind} repo '{repo}' to open a pull request on; leave out --create-pr.")
            if role != "write" or owner != me["name"]:
                create_repo(target)
            return None
        retried(lambda: api.auth_check(repo, repo_type=target.kind, write=not target.create_pr))
        if target.private and not about.private:
            raise UserError(f"{repo} exists and is public, --private only makes new repos private; change it on its page.")
        at = tagged(target) if target.tag else None
        if at is not None and (at != about.sha or changes):
            raise TagTaken(f"{repo} has a tag '{target.tag}' already, at {at[:8]}; give another --tag.")
    return about


def info(target: Target) -> Any | None:
    """What the Hub says of a repo (sha, siblings, tags, private, ...), or None where it has none of that name."""
    try:
        return retried(lambda: HfApi().repo_info(target.repo, repo_type=target.kind))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def listing(target: Target, commit: str) -> dict[str, RepoFile]:
    """{path: the Hub's entry} of all files of a repo at `commit`."""
    entries = retried(lambda: list(HfApi().list_repo_tree(target.repo, recursive=True, revision=commit, repo_type=target.kind)))
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def text(target: Target, commit: str, path: str) -> str:
    """A text file of a repo at `commit`."""
    with asking(target.repo, commit, target.kind):
        found = retried(lambda: hf_hub_download(target.repo, path, repo_type=target.kind, revision=commit))
    return Path(found).read_text("utf-8")


def same(entry: RepoFile, source: Path | bytes) -> bool:
    """Whether a file on the Hub has the bytes of `source`, a local path or bytes."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if entry.size != size:
        return False
    if entry.lfs is None:
        data = source if isinstance(source, bytes) else source.read_bytes()
        return entry.blob_id == git_sha1(data)
    return entry.lfs.sha256 == (hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else file_sha256(source))


def git_sha1(data: bytes) -> str:
    """Git's name for a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(files: Files, there: Mapping[str, RepoFile]) -> Files:
    """What is to be done so that a repo that holds `there` holds `files`: {path: source, or None to remove it}."""
    return {
        path: source
        for path, source in files.items()
        if (path in there if source is None else path not in there or not same(there[path], source))
    }


def push(target: Target, build: Build, message: str) -> Pushed:
    """Make `target` hold what `build(commit, listing)` says, {path: local path, bytes, or None for no such file}; a Pushed.

    One commit on top of a known one, and none where nothing differs. After a fault that may pass, the repo is looked at
    first: a commit whose answer was lost is found there and not made again. If somebody else committed meanwhile, `build`
    is asked again, once. The repo is made where there is none, the tag set last.
    """
    with writing(target):
        if not target.create_pr and info(target) is None:
            create_repo(target)
        pushed = pull_request(target, build, message) if target.create_pr else committed(target, build, message)
        if target.tag:
            set_tag(target, pushed.commit)
    return pushed


def create_repo(target: Target) -> None:
    """Make the repo."""
    private = True if target.private else None  # None: as the owner's account has it
    sdk = "static" if target.kind == "space" else None
    retried(lambda: HfApi().create_repo(target.repo, repo_type=target.kind, private=private, exist_ok=True, space_sdk=sdk))


def committed(target: Target, build: Build, message: str) -> Pushed:
    """`push` to the default branch of a repo that exists."""
    parent: str | None = None
    failed: Exception | None = None
    moves = 0
    for wait in (*WAITS, WAITS[-1], None):
        head = head_of(target)
        if head != parent:
            moves += parent is not None
            there = listing(target, head)
            todo = changed_files(build(head, there), there)
            if not todo:
                return Pushed(head, target.url, failed is not None)
            if target.tag and (at := tagged(target)):
                raise TagTaken(
                    f"{target.repo} has a tag '{target.tag}' already, at {at[:8]}, with other files; give another --tag."
                )
            if moves > 1:
                raise UserError(
                    f"{target.repo} changed twice while this was pushed to it; wait for the other, then push again."
                )
            parent, operations = head, operations_for(todo)
        if wait is None:
            assert failed is not None  # in the try before
            raise failed
        try:
            made = HfApi().create_commit(target.repo, operations, commit_message=message, repo_type=target.kind,
                                         parent_commit=parent)  # fmt: skip
            return Pushed(made.oid, target.url, True)
        except LOST as error:
            failed = error
            if not (status(error) == 412 or may_pass(error)):  # 412: another was faster, and is seen at the next look
                raise
            time.sleep(pause(error, wait))
    raise AssertionError("the last round returns or raises")


def head_of(target: Target) -> str:
    """The commit at the head of a repo; UserError where it went away."""
    about = info(target)
    if about is None:
        raise UserError(f"{target.url} went away while this was pushed to it, or may no longer be read; push again.")
    return about.sha


def pull_request(target: Target, build: Build, message: str) -> Pushed:
    """`push` as a pull request; none where an open or earlier one has the same files already."""
    head = head_of(target)
    there = listing(target, head)
    files = build(head, there)
    todo = changed_files(files, there)
    seen: dict[int, str] = {}
    failed: Exception | None = None
    if not todo:
        return Pushed(head, target.url, False)
    operations = operations_for(todo)
    for wait in (*WAITS, WAITS[-1], None):
        for number, commit in pull_requests(target)[-RECENT:]:
            if seen.get(number) != commit and not changed_files(files, listing(target, commit)):
                return Pushed(commit, f"{target.url}/discussions/{number}", failed is not None)
            seen[number] = commit
        if wait is None:
            assert failed is not None  # in the try before
            raise failed
        try:
            made = HfApi().create_commit(target.repo, operations, commit_message=message, repo_type=target.kind,
                                         parent_commit=head, create_pr=True)  # fmt: skip
            return Pushed(made.oid, cast(str, made.pr_url), True)
        except LOST as error:
            failed = error
            if status(error) == 412:
                raise UserError(f"{target.repo} changed while this was pushed to it; push again.") from error
            if not may_pass(error):
                raise
            time.sleep(pause(error, wait))
    raise AssertionError("the last round returns or raises")


def pull_requests(target: Target) -> list[tuple[int, str]]:
    """[(number, commit)] of all pull requests of a repo, oldest first."""
    refs = retried(lambda: HfApi().list_repo_refs(target.repo, repo_type=target.kind, include_pull_requests=True))
    return sorted((int(ref.ref.rsplit("/", 1)[1]), ref.target_commit) for ref in refs.pull_requests or [])


def operations_for(todo: Files) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What `changed_files` found as operations of one commit; they remember what is uploaded, so use them for a retry."""
    return [
        CommitOperationDelete(path) if source is None else CommitOperationAdd(path, source)
        for path, source in sorted(todo.items())
    ]


def set_tag(target: Target, commit: str) -> None:
    """Tag `commit`; UserError where the tag is elsewhere already."""
    tag = cast(str, target.tag)  # only a target with a tag is tagged
    retried(lambda: HfApi().create_tag(target.repo, tag=tag, revision=commit, repo_type=target.kind, exist_ok=True))
    at = tagged(target)
    if at != commit:
        raise TagTaken(f"pushed as {commit[:8]}, but the tag '{target.tag}' is at {str(at)[:8]} already; give another --tag.")


def tagged(target: Target) -> str | None:
    """The commit that the tag of `target` points to, or None without such a tag."""
    try:
        return retried(lambda: HfApi().repo_info(target.repo, repo_type=target.kind, revision=target.tag)).sha
    except RevisionNotFoundError:
        return None


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


@contextlib.contextmanager
def writing(target: Target) -> Iterator[None]:
    """What the Hub's clients raise while something is pushed to `target`, as UserError."""
    try:
        with asking(target.repo, None, target.kind):
            try:
                yield
            except (GatedRepoError, RepositoryNotFoundError):
                raise
            except HfHubHTTPError as error:
                if status(error) in (401, 403):
                    raise UserError(
                        f"this login may not write to {target.repo} ({target.kind} repo at {constants.ENDPOINT}): "
                        "use a token with write permission, or add --create-pr."
                    ) from error
                raise
    except (ValueError, RuntimeError) as error:  # a card that the Hub refuses; what hf_xet raises for a failed upload
        raise UserError(
            f"the Hub at {constants.ENDPOINT} did not take the files for {target.repo}: {one_line(error)}"
        ) from error


def one_line(error: BaseException | None) -> str:
    """An exception as one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
