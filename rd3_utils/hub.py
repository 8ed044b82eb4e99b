"""What the Hugging Face Hub has: the only code that asks it. `datasets` and `timm` then read at the commit named here.

Every other module receives a 40-hex commit and never a moving name. Nothing that comes from the Hub is unpickled or run.
"""

import re

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from rd3_utils.errors import UserError

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def parse(source):
    """OWNER/REPO[@REVISION][:CONFIG] as (repo, revision or None, config or None); UserError if it is not one."""
    match = re.fullmatch(rf"({REPO_ID.pattern})(?:@([\w./-]+))?(?::([\w./-]+))?", source)
    if not match:
        raise UserError(
            f"source '{source}' is neither a path that exists, nor a selection (random:ipc=10,seed=0 or full), "
            "nor OWNER/REPO[@REVISION][:CONFIG]."
        )
    return match.groups()


def commit(repo, revision=None, repo_type="dataset"):
    """The 40-hex commit that `revision` (tag, branch, commit; default branch if None) of `repo` points to now."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return HfApi().repo_info(repo, revision=revision, repo_type=repo_type).sha
    except GatedRepoError as error:
        raise UserError(f"{repo} is gated: accept its terms on its page and log in (hf auth login).") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision '{revision}'; leave it out for the default branch.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"no {repo_type} repo '{repo}' at {constants.ENDPOINT}, or it is private and this login may not read it."
        ) from error
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"HF_HUB_OFFLINE is set and '{repo}@{revision or 'main'}' is not a full commit: "
            "give the 40-hex commit to use the cached copy."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise UserError(f"the Hub at {constants.ENDPOINT} did not answer for {repo}: {one_line(error)}") from error


def one_line(error):
    """An exception as one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
