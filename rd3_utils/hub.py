"""What the Hugging Face Hub has: the only code that asks it. `datasets` and `timm` then read at the commit named here.

Every other module receives a 40-hex commit and never a moving name. Nothing that comes from the Hub is unpickled or run.
"""

import contextlib
import re
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from rd3_utils.errors import UserError

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def parse(source):
    """OWNER/REPO[@REVISION][:CONFIG] as (repo, revision or None, config or None); UserError if it is not one."""
    match = re.fullmatch(rf"({REPO_ID.pattern})(?:@([\w./-]+))?(?::([\w./@-]+))?", source)
    if not match or ".." in source.split("/"):
        raise UserError(
            f"source '{source}' is neither a path that exists, nor a selection (random:ipc=10,seed=0 or full), "
            "nor OWNER/REPO[@REVISION][:CONFIG]."
        )
    return match.groups()


def looks_like_repo(source):
    """Whether `source` is OWNER/REPO[@REVISION][:PATH] and no path that exists."""
    return not Path(source).exists() and not source.startswith((".", "/", "~")) and "/" in source.partition(":")[0]


def commit(repo, revision=None, repo_type="dataset"):
    """The 40-hex commit that `revision` (tag, branch, commit; default branch if None) of `repo` points to now."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    with asking(repo, revision, repo_type):
        return HfApi().repo_info(repo, revision=revision, repo_type=repo_type).sha


def index_files(repo, commit):
    """Paths of every index.json of a dataset repo at `commit`; from the cache when they are there."""
    with asking(repo, commit, "dataset"):
        folder = Path(
            snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=["index.json", "*/index.json"])
        )
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("index.json"))


def download(repo, commit, path, folder=None, again=False):
    """The local copy of a file of a dataset repo, in the Hub's cache or under `folder`; `again` fetches it anew."""
    with asking(repo, commit, "dataset"):
        found = hf_hub_download(repo, path, repo_type="dataset", revision=commit, local_dir=folder, force_download=again)
    return Path(found)


@contextlib.contextmanager
def asking(repo, revision, repo_type):
    """What the Hub's clients raise about `repo`, as UserError."""
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{repo} is gated: accept its terms on its page and log in (hf auth login).") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision '{revision}'; leave it out for the default branch.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"no {repo_type} repo '{repo}' at {constants.ENDPOINT}, or it is private and this login may not read it."
        ) from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{repo}@{revision[:8]} lacks a file that it names: {one_line(error)}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"HF_HUB_OFFLINE is set and what is needed of '{repo}@{revision or 'main'}' is not in the cache: "
                "give the 40-hex commit to use a cached copy, or go online once."
            ) from error
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {repo}: {one_line(error)}") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {repo}: {one_line(error)}") from error


def one_line(error):
    """An exception as one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
