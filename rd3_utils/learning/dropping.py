"""What a network leaves out at random in training: dropout (single activations) and stochastic depth (whole branches of rows).

A protocol states either as one number, which timm takes as `drop_rate` and `drop_path_rate`: dropout is that of the layers
before the classifier, stochastic depth grows to its number over the blocks. What a network really draws is read from a step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rd3_utils import hub
from rd3_utils.errors import UserError
from rd3_utils.protocols.knobs import STOCK

DROP_KNOBS = {"drop_rate": "dropout", "drop_path_rate": "stochastic_depth"}  # timm's word -> the protocol's


class Draws(TorchDispatchMode):
    """Notes (shape, probability) of every random mask that is drawn while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[torch.Size, float]] = []

    def __torch_dispatch__(
        self, function: Callable, types: Sequence[type], arguments: tuple = (), named: dict | None = None
    ) -> Any:
        if function is torch.ops.aten.bernoulli_.float:  # of what is kept
            self.masks.append((arguments[0].shape, 1 - (arguments[1] if len(arguments) > 1 else 0.5)))  # 0.5 is left out
        if function is torch.ops.aten.native_dropout.default:
            self.masks.append((arguments[0].shape, arguments[1]))
        return function(*arguments, **(named or {}))


def drop_probabilities(network: nn.Module, size: int) -> dict[str, list[float]]:
    """{"dropout": [p, ...], "stochastic_depth": [p, ...]}: the probabilities of one training step, in order; 0 is none.

    A step on two images of `size` pixels, in shapes without numbers: nothing is computed, and the network stays as it is.
    """
    state = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    training = network.training
    probabilities: dict[str, list[float]] = {"dropout": [], "stochastic_depth": []}
    try:
        with Draws() as draws, torch.no_grad():
            torch.func.functional_call(network.train(), state, torch.empty(2, 3, size, size, device="meta"))
    finally:
        network.train(training)
    for shape, p in draws.masks:
        probabilities["stochastic_depth" if shape.numel() == 2 else "dropout"].append(round(p, 6))  # one number per image
    return probabilities


def built(make: Callable[..., nn.Module], arch: str, dropout: float, stochastic_depth: float) -> nn.Module:
    """`make(**words)`, a timm network with these rates; STOCK leaves timm's own.

    UserError where it has no place for one; a rate of 0 is not told to a network that does not know the word.
    """
    rates = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    rates = {word: rate for word, rate in rates.items() if rate != STOCK}
    while True:
        try:
            return make(**rates)
        except TypeError as error:
            unknown = next((word for word in rates if f"'{word}'" in str(error)), None)
            if unknown is None:
                raise
            if rates.pop(unknown):
                raise none_of(arch, unknown, dropout if unknown == "drop_rate" else stochastic_depth) from error


def check_drops(network: nn.Module, arch: str, size: int, dropout: float, stochastic_depth: float) -> None:
    """UserError where a training step of `network` would not draw what is stated."""
    if dropout == stochastic_depth == STOCK:
        return
    try:
        drawn = drop_probabilities(network, size)
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"student {arch}: what it leaves out at random cannot be told ({hub.one_line(error)}); leave training.dropout and "
            "training.stochastic_depth at -1."
        ) from error
    for word, rate in (("drop_rate", dropout), ("drop_path_rate", stochastic_depth)):
        if rate > 0 and not drawn[DROP_KNOBS[word]]:
            raise none_of(arch, word, rate)
        if rate == 0 and drawn[DROP_KNOBS[word]]:
            knob = DROP_KNOBS[word]
            raise UserError(
                f"student {arch} keeps a {knob.replace('_', ' ')} of {max(drawn[knob]):g} that timm has no word for, and "
                f"training.{knob} is 0; leave it at -1."
            )


def none_of(arch: str, word: str, rate: float) -> UserError:
    """The UserError of a network without a place for the rate that timm calls `word`."""
    knob = DROP_KNOBS[word]
    return UserError(
        f"student {arch} has no {knob.replace('_', ' ')} in it, and training.{knob} is {rate:g}; set it to -1 (as timm's "
        "network has it) or 0, or train another student."
    )
