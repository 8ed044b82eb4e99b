"""The README is true: its commands parse and run, its tree is the tree, its pictures are there."""

import re
import shlex

import pytest
from conftest import PROJECT

README = (PROJECT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:accelerate launch|python -m) ((?:train_student|generate_soft_labels|rd3_utils)\S*.*?)(?:  +#.*)?$",
                      README, re.MULTILINE)  # fmt: skip
SHORT = ["--set", "training.epochs=2"]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(script, command):
    name, *arguments = shlex.split(command)
    if name == "rd3_utils":
        arguments += ["--iterations", "2"] if "synthesize" in arguments else []
    elif "--distilled" in arguments and "digits-dm-ipc10" in arguments and name == "train_student.py":
        assert script("generate_soft_labels", "--distilled", "digits-dm-ipc10", *SHORT).code == 0
        arguments += SHORT
    else:
        arguments += SHORT
    done = script(name.removesuffix(".py"), *arguments)
    assert done.code == 0, done.err


def test_every_module_stands_in_the_tree():
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        assert path.name == "__init__.py" or path.name in README, path


def test_every_picture_and_file_of_the_readme_is_there():
    for name in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (PROJECT / name).is_file(), name
    for name in re.findall(r"`([\w/]+\.(?:py|yaml|toml))`", README):
        assert (PROJECT / name).exists() or list(PROJECT.rglob(name)), name
