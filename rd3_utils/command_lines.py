"""Command lines for people: the one writer of what messages, cards and boards tell to type, and of what studies start.

A command is one line, quoted as a shell reads it, that states only options that differ from their defaults, in the order of
their dataclass (options.py). It is on the ground floor: what trains, publishes, ranks and studies all tell commands.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from rd3_utils.options import LabelOptions, TrainOptions

LAUNCH = ("accelerate", "launch")
MODULE = ("python", "-m", "rd3_utils")
SCRIPTS = {TrainOptions: "train_student.py", LabelOptions: "generate_soft_labels.py"}


def option(name: str, value: object, spell: Callable[[str], str] = str) -> list[str]:
    """The words of one option: none for None or False, a flag for True, commas between numbers, a repeated option for texts.

    `spell` writes a text; a value that starts with a dash is tied to its option, for it would be read as another.
    """
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        value = ",".join(map(str, value))
    texts = [spell(text) if isinstance(text, str) else str(text) for text in (value if isinstance(value, tuple) else (value,))]
    return [word for text in texts for word in ([f"{flag}={text}"] if text.startswith("-") else [flag, text])]


def option_words(
    options: TrainOptions | LabelOptions, stated: Collection[str] = (), spell: Callable[[str], str] = str
) -> list[str]:
    """The words that give `options`: of those that differ from their defaults, and of those that `stated` names."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    differ = {field.name for field in fields(options) if given[field.name] != field.default}
    return [word for name, value in given.items() if name in differ or name in stated for word in option(name, value, spell)]


def launch(
    options: TrainOptions | LabelOptions,
    stated: Collection[str] = (),
    spell: Callable[[str], str] = str,
    precision: str = "fp32",
) -> str:
    """The command that runs the script of `options` in `precision`; `stated` and `spell` as in `option_words`."""
    mixed = [] if precision == "fp32" else in_precision(precision)
    return shlex.join([*LAUNCH, *mixed, SCRIPTS[type(options)], *option_words(options, stated, spell)])


def in_precision(precision: str) -> list[str]:
    """The option of the launcher that states a precision."""
    return ["--mixed_precision", "no" if precision == "fp32" else precision]


def module(command: Iterable[str]) -> str:
    """The command that runs a command of this package, such as synthesize, with its words."""
    return shlex.join([*MODULE, *command])


def repeated(argv: Sequence[str], *more: str, precision: str | None = None, other_tag: bool = False) -> str:
    """The command of `argv` (sys.argv) once more: with `more` options, in a stated `precision`, under `other_tag`.

    Under that, its --tag is one to choose. A precision is the launcher's to set, so a command without one gets one.
    """
    name, words = Path(argv[0]).name, [*argv[1:], *(word for word in more if word not in argv)]
    mixed = [] if precision is None else in_precision(precision)
    if name in ("__main__.py", "rd3"):
        prefix = [*LAUNCH, *mixed, *MODULE[1:]] if mixed else list(MODULE) if name == "__main__.py" else ["rd3"]
    else:
        prefix = [*LAUNCH, *mixed, argv[0]]
    if other_tag:
        tied = ("--tag=ANOTHER" if word.startswith("--tag=") else word for word in words)
        words = ["ANOTHER" if before == "--tag" else word for before, word in zip(["", *words], tied)]
    return shlex.join([*prefix, *words])
