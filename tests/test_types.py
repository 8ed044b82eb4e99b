"""Signatures: every public one is typed, and mypy finds no call that does not fit."""

import ast
import subprocess
import sys

from conftest import PROJECT


def functions():
    """(file, name, arguments and return of every public function and method, None where it is not annotated)."""
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                given = [argument.annotation for argument in arguments if argument.arg not in ("self", "cls")]
                yield path.relative_to(PROJECT), node.name, [*given, node.returns]


def test_nearly_every_public_function_is_annotated():
    found = list(functions())
    bare = [(str(path), name) for path, name, annotations in found if None in annotations]
    assert len(found) > 900 and len(bare) < 0.05 * len(found), bare


def test_the_types_fit_one_another(pytestconfig):
    cache = pytestconfig.cache.mkdir("mypy")  # what mypy worked out of torch and of files that are as they were
    done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", cache], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
