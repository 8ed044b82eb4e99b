"""The Hugging Face Hub, out: files become one commit on top of a known one; a call after a lost answer changes nothing."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from rd3_utils import hub
from rd3_utils.errors import TagTaken, UserError

Files = Mapping[str, Path | bytes | None]  # what a repo is to hold: path -> source, or None for no such file
Build = Callable[[str, dict[str, RepoFile]], Files]  # of a commit and its listing

RECENT = 10  # pull requests in which equal files are looked for


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
    check_unasked(target)
    repo, owner = target.repo, target.repo.split("/")[0]
    with writing(target):
        names, role = login(target)
        if owner not in names and not target.create_pr:
            raise UserError(
                f"{repo} belongs to '{owner}', this login to {', '.join(names)}: push to one of these, or add --create-pr."
            )
        about = info(target)
        if about is None:
            if target.create_pr:
                raise UserError(f"there is no {target.kind} repo '{repo}' to open a pull request on; leave out --create-pr.")
            if role != "write" or owner != names[0]:
                create_repo(target)
            return None
        hub.retried(lambda: HfApi().auth_check(repo, repo_type=target.kind, write=not target.create_pr))
        if target.private and not about.private:
            raise UserError(f"{repo} exists and is public, --private only makes new repos private; change it on its page.")
        at = tagged(target) if target.tag else None
        if at is not None and (at != about.sha or changes):
            raise TagTaken(f"{repo} has a tag '{target.tag}' already, at {at[:8]}; give another --tag.")
    return about


def check_unasked(target: Target) -> None:
    """The checks of `may_push` for which the Hub need not be asked."""
    repo = target.repo
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' cannot be the name of a repo: {hub.one_line(error)}") from error
    if not hub.REPO_ID.fullmatch(repo):
        raise UserError(f"'{repo}' cannot be the name of a repo; wanted OWNER/REPO.")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing can be pushed to {repo}; unset it.")
    if not get_token():
        raise UserError(f"pushing to {repo} needs a token: hf auth login, or HF_TOKEN with one that may write.")


def login(target: Target) -> tuple[list[str], str]:
    """(names of this login and of its organisations, role of its token); UserError for a token that is wrong or only reads."""
    try:
        me = hub.retried(HfApi().whoami)
    except HfHubHTTPError as error:
        if hub.status(error) == 401:
            raise UserError(f"the Hub at {constants.ENDPOINT} does not know this token; get one with hf auth login.") from error
        raise
    role = me.get("auth", {}).get("accessToken", {}).get("role", "write")
    if role == "read":
        raise UserError(f"the token of '{me['name']}' may only read; pushing to {target.repo} needs one that may write.")
    return [me["name"], *(org["name"] for org in me.get("orgs", []))], role


def info(target: Target) -> Any | None:
    """What the Hub says of a repo (sha, siblings, tags, private, ...), or None where it has none of that name."""
    try:
        return hub.retried(lambda: HfApi().repo_info(target.repo, repo_type=target.kind))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def listing(target: Target, commit: str) -> dict[str, RepoFile]:
    """{path: the Hub's entry} of all files of a repo at `commit`."""
    entries = hub.retried(
        lambda: list(HfApi().list_repo_tree(target.repo, recursive=True, revision=commit, repo_type=target.kind))
    )
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def text(target: Target, commit: str, path: str) -> str:
    """A text file of a repo at `commit`."""
    with hub.asking(target.repo, commit, target.kind):
        found = hub.retried(lambda: hf_hub_download(target.repo, path, repo_type=target.kind, revision=commit))
    try:
        return Path(found).read_bytes().decode("utf-8")  # line ends as they are
    except UnicodeDecodeError as error:
        raise UserError(f"{path} of {target.repo} is no UTF-8 text; mend it.") from error


def same(entry: RepoFile, source: Path | bytes) -> bool:
    """Whether a file on the Hub has the bytes of `source`, a local path or bytes."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if entry.size != size:
        return False
    if entry.lfs is None:
        data = source if isinstance(source, bytes) else source.read_bytes()
        return entry.blob_id == hub.git_sha1(data)
    return entry.lfs.sha256 == (hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else hub.file_sha256(source))


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


def say(pushed: Pushed) -> None:
    """Print what a push did."""
    print(f"{'pushed' if pushed.new else 'nothing to push, all is there:'} {pushed.url} at {pushed.commit}")


def create_repo(target: Target) -> None:
    """Make the repo."""
    private = True if target.private else None  # None: as the owner's account has it
    sdk = "static" if target.kind == "space" else None
    hub.retried(lambda: HfApi().create_repo(target.repo, repo_type=target.kind, private=private, exist_ok=True, space_sdk=sdk))


def committed(target: Target, build: Build, message: str) -> Pushed:
    """`push` to the default branch of a repo that exists."""
    parent: str | None = None
    failed: Exception | None = None
    moves = 0
    for wait in (*hub.WAITS, hub.WAITS[-1], None):
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
        except hub.LOST as error:
            failed = error
            if not (hub.status(error) == 412 or hub.may_pass(error)):  # 412: another was faster, and is seen at the next look
                raise
            time.sleep(hub.pause(error, wait))
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
    for wait in (*hub.WAITS, hub.WAITS[-1], None):
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
        except hub.LOST as error:
            failed = error
            if hub.status(error) == 412:
                raise UserError(f"{target.repo} changed while this was pushed to it; push again.") from error
            if not hub.may_pass(error):
                raise
            time.sleep(hub.pause(error, wait))
    raise AssertionError("the last round returns or raises")


def pull_requests(target: Target) -> list[tuple[int, str]]:
    """[(number, commit)] of all pull requests of a repo, oldest first."""
    refs = hub.retried(lambda: HfApi().list_repo_refs(target.repo, repo_type=target.kind, include_pull_requests=True))
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
    hub.retried(lambda: HfApi().create_tag(target.repo, tag=tag, revision=commit, repo_type=target.kind, exist_ok=True))
    at = tagged(target)
    if at != commit:
        raise TagTaken(f"pushed as {commit[:8]}, but the tag '{target.tag}' is at {str(at)[:8]} already; give another --tag.")


def tagged(target: Target) -> str | None:
    """The commit that the tag of `target` points to, or None without such a tag."""
    try:
        return hub.retried(lambda: HfApi().repo_info(target.repo, repo_type=target.kind, revision=target.tag)).sha
    except RevisionNotFoundError:
        return None


@contextlib.contextmanager
def writing(target: Target) -> Iterator[None]:
    """What the Hub's clients raise while something is pushed to `target`, as UserError."""
    try:
        with hub.asking(target.repo, None, target.kind):
            try:
                yield
            except (GatedRepoError, RepositoryNotFoundError):
                raise
            except HfHubHTTPError as error:
                if hub.status(error) in (401, 403):
                    raise UserError(
                        f"this login may not write to {target.repo} ({target.kind} repo at {constants.ENDPOINT}): "
                        "use a token with write permission, or add --create-pr."
                    ) from error
                raise
    except (ValueError, RuntimeError) as error:  # a card that the Hub refuses; what hf_xet raises for a failed upload
        raise UserError(
            f"the Hub at {constants.ENDPOINT} did not take the files for {target.repo}: {hub.one_line(error)}"
        ) from error
