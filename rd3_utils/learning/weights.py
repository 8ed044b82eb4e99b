"""Which weights a network has: the SHA-256 that Runs state, and whether a saved network has those of the Run beside it."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from rd3_utils import bounded
from rd3_utils.errors import UserError

RUN = "run.json"  # the Run of a network, where it lies in the network's own folder


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def check_stated_weights(folder: Path, network: nn.Module, whose: str) -> None:
    """UserError unless `network`, loaded from `folder`, has the weights that the Run in it or beside it states, if any does.

    One flipped bit loads as well as the right one, and only the Run knows. Runs until November 2026 do not state weights.
    """
    folder = folder.absolute()
    for place in (folder / RUN, folder.with_name(f"{folder.name}.json")):
        stated = stated_sha256(place)
        if stated is not None and stated != (own := weights_sha256(network)):
            raise UserError(
                f"{whose} has weights of SHA-256 {own[:12]}, and its Run {place.name} states {str(stated)[:12]!r}: they are "
                "not those that were scored; get the folder anew, or train the student again."
            )


def stated_sha256(place: Path) -> object:
    """What the Run at `place` states of its weights, unchecked; None where there is no Run or it states nothing."""
    if not place.is_file():
        return None
    try:
        table = bounded.read_json(place, kind="a Run")
    except bounded.Refused as refused:
        raise UserError(f"{place} is no whole Run of this project ({refused}); get it anew, or remove it.") from None
    weights = table.get("weights") if isinstance(table, dict) else None
    return weights.get("sha256") if isinstance(weights, dict) else None
