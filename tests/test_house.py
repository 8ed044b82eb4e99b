"""The house: imports point one way, scripts stay readable, nothing happens at import."""

import ast
import importlib
import inspect
import re
import subprocess
import sys

import pytest
import timm
import warm
from conftest import PROJECT

from rd3_utils.cli import convert as cli_convert
from rd3_utils.data import convert as data_convert
from rd3_utils.data import selections, sources
from rd3_utils.learning import architectures, students
from rd3_utils.synthesis import recovery, settings

FLOORS = [
    "protocols",
    "data",
    "learning",
    "synthesis",
    "scoring",
    "arms",
    "transfer",
    "publishing",
    "verification",
    "studies",
    "leaderboard",
    "cli",
]
GROUND = {
    "bounded",
    "command_lines",
    "errors",
    "files",
    "hub",
    "launch",
    "limits",
    "options",
    "progress",
    "pushing",
    "subprocesses",
    "text",
    "tracking",
    "units",
}


def imported(path):
    """Modules of rd3_utils that a file imports, as ("data", "views")."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rd3_utils."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rd3_utils"):
            names = [node.module] if node.module.count(".") > 1 else [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name.split(".")[1] for name in names)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_one_way(floor):
    allowed = set(FLOORS[: FLOORS.index(floor) + 1]) | GROUND
    for path in (PROJECT / "rd3_utils" / floor).rglob("*.py"):
        assert set(imported(path)) <= allowed, path


def test_the_ground_floor_imports_only_the_ground_floor():
    """In this order: errors, files, hub, pushing; the others need at most errors."""
    below = {
        "errors": set(),
        "hub": {"errors", "files"},
        "pushing": {"errors", "hub"},
        "command_lines": {"options"},
        "bounded": {"errors", "limits", "units"},
    }
    for name in GROUND:
        assert set(imported(PROJECT / "rd3_utils" / f"{name}.py")) <= below.get(name, {"errors"}), name


@pytest.mark.parametrize("script", ["train_student.py", "generate_soft_labels.py"])
def test_a_script_is_read_on_two_screens(script):
    assert len((PROJECT / script).read_text().splitlines()) < 150


MOST = {"lines": 50, "arguments by position": 7, "blocks": 6}  # of a function
EXCEPTIONS = {  # functions that may be more, and why
    "rd3_utils/studies/jobs.py:run": "the engine of studies is written anew",
}
BLOCKS = ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.Match


def parsed():
    """(path as in the repository, parsed file) of the package and the scripts."""
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        yield path.relative_to(PROJECT).as_posix(), ast.parse(path.read_text())


def depth(node):
    """How deep blocks lie in one another below a node; an elif is no deeper than its if."""
    inner = [depth(child) + isinstance(child, BLOCKS) for child in ast.iter_child_nodes(node)]
    is_elif = isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)
    return max(inner, default=0) if not is_elif else max([depth(node.orelse[0]), *inner[:-1]])


def size(node):
    """The sizes of a function that MOST limits."""
    lines, by_position = node.end_lineno - node.lineno + 1, [*node.args.posonlyargs, *node.args.args]
    return {"lines": lines, "arguments by position": len(by_position), "blocks": depth(node)}


def test_no_module_is_too_long_to_read():
    lines = {path.name: len(path.read_text().splitlines()) for path in (PROJECT / "rd3_utils").rglob("*.py")}
    assert {name for name, count in lines.items() if count > 450} == set()


def test_no_function_is_too_long_too_deep_or_takes_too_much():
    """And no exception is stated that is none any more."""
    more = {}
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                over = {key: value for key, value in size(node).items() if value > MOST[key]}
                more.update({f"{path}:{node.name}": over} if over else {})
    assert more.keys() == EXCEPTIONS.keys(), {name: more.get(name) for name in more.keys() ^ EXCEPTIONS.keys()}


def test_depth_is_counted_as_a_person_does():
    tried = "def f():\n if a:\n  1\n elif b:\n  2\n elif c:\n  for d in e:\n   with g: 3\n else:\n  4"
    assert depth(ast.parse(tried).body[0]) == 3


IDLE = {"found", "told", "beside", "seen", "what", "of"}  # names that do not say what they hold
STILL_IDLE = (
    "rd3_utils/cli/",
    "rd3_utils/publishing/",
    "rd3_utils/hub.py",
    "rd3_utils/pushing.py",
    "rd3_utils/protocols/knobs.py",
)  # not read yet


def names_given(tree):
    """The names that a file gives to variables and parameters, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_a_variable_says_what_it_holds():
    idle = [f"{path}:{line} {name}" for path, tree in parsed() if not path.startswith(STILL_IDLE)
            for name, line in names_given(tree) if name in IDLE]  # fmt: skip
    assert not idle


def test_few_files_spell_a_score_as_a_key():
    """A Run and a Score are read by attribute; keys of files on disk are spelt where they are written and read."""
    files = [
        path
        for path, tree in parsed()
        if any(isinstance(node, ast.Constant) and node.value == "top1" for node in ast.walk(tree))
    ]
    assert len(files) <= 10, files


@pytest.mark.parametrize("words", [["-m", "rd3_utils", "--help"], ["-m", "rd3_utils", "list"], ["-m", "rd3_utils", "--version"],
                                   ["train_student.py", "--help"], ["generate_soft_labels.py", "--seed", "1"]])  # fmt: skip
def test_what_needs_no_network_answers_without_torch(words):
    done = subprocess.run([sys.executable, "-X", "importtime", *words], cwd=PROJECT, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "rd3_utils.cli.options" in loaded and not loaded & {"torch", "timm", "datasets", "evaluate", "scipy.stats"}


@pytest.mark.parametrize("words, wanted", [
    (["--seed", "1"], "unknown --seed: did you mean --seeds"),
    (["--epochs", "10"], "unknown --epochs: a knob is set with --set training.epochs=VALUE"),
    (["--arm", "distilled-soft"], "unknown --arm: did you mean --arms"),
    (["--views-seed", "Each"], "argument --views-seed: 'Each' is neither a seed nor each"),
    (["--draws", "many"], "argument --draws: 'many' is no whole number of at least 1"),
    (["--batch-size=10"], "unknown --batch-size=10: a knob is set with --set training.batch_size=VALUE"),
])  # fmt: skip
def test_a_mistyped_option_is_never_taken_for_another(script, words, wanted):
    done = script("train_student", *words)
    assert done.code == 2 and wanted in done.err and done.err.count("\n") == 1


def test_a_saved_student_is_known_to_timm_whichever_is_imported_first():
    for first, second in (("rd3_utils", "timm"), ("timm", "rd3_utils"), ("rd3_utils", "timm.layers")):
        code = f"import {first}, {second}, timm; assert timm.is_model('convnet3') and timm.__spec__.loader.name == 'timm'"
        done = subprocess.run([warm.python(), "-c", code], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_there_are_no_drawers_for_everything():
    names = {path.stem for path in (PROJECT / "rd3_utils").rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "base", "misc"}


def test_importing_prints_nothing_and_seeds_nothing():
    code = (
        "import torch, random, timm, accelerate, datasets, evaluate\n"
        "a = torch.initial_seed(); b = random.getstate()\n"
        "import train_student, generate_soft_labels, rd3_utils.__main__\n"
        "assert torch.initial_seed() == a and random.getstate() == b\n"
        "import sys; assert 'sklearn' not in sys.modules  # it takes a second, and only transfer computes with it"
    )
    done = subprocess.run([warm.python(), "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_hub_and_pushing_ask_the_hub_what_it_has():
    """Others read through datasets, timm and torchvision, at a commit that hub.py resolved."""
    for path in (PROJECT / "rd3_utils").rglob("*.py"):
        asks = any(name in path.read_text() for name in ("HfApi", "snapshot_download", "hf_hub_download"))
        assert path.name in ("hub.py", "pushing.py") or not asks, path


# what is pushed, compared or read back at once is made in a folder of the system's and needs no rename
STAGED = {"dataset_repo.py", "student_repo.py", "students.py", "rerun.py"}


def test_only_files_py_writes_under_a_temporary_name_and_renames():
    renames = {"os.replace", "os.rename", "os.renames", "shutil.move", "os.link"}
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        tree = ast.parse(path.read_text())
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        by_hand = called & renames or {name for name in called if name.endswith((".rename", "mkstemp", "TemporaryFile"))}
        by_hand |= {text for text in texts if text.endswith((".partial", ".tmp"))}
        assert path.name == "files.py" or not by_hand, (path, by_hand)
        assert path.name in STAGED or not {name for name in called if name.startswith("tempfile.")}, path


def test_one_module_writes_command_lines():
    """Outside of docstrings nobody else names a launcher with a script, or joins words for a shell."""
    for path in [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]:
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
        launchers = [text for text in texts if isinstance(text, str) and re.search(r"accelerate launch \w|^accelerate$", text)]
        assert path.name == "command_lines.py" or not launchers and "shlex.join" not in path.read_text(), (path, launchers)


def test_one_module_knows_how_results_are_laid_out():
    """Others ask scoring/results.py: they walk neither up from the path of a Run nor down to it."""
    walks = re.compile(r"\.parents\[|glob\(.*(\*/\*/|seed\*)")
    files = [*(PROJECT / "rd3_utils").rglob("*.py"), *PROJECT.glob("*.py")]
    lines = {path.name: [line for line in path.read_text().splitlines() if walks.search(line)] for path in files}
    assert [name for name, found in lines.items() if found] == ["results.py"], lines


def test_the_project_names_no_machine():
    files = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.toml", "*.json", "*.yaml", "Makefile"], cwd=PROJECT,
                           capture_output=True, text=True).stdout.split()  # fmt: skip
    for name in files:
        if name != "tests/test_house.py":
            text = (PROJECT / name).read_text()
            assert "/root/" not in text and "/work/" not in text, name


def test_what_is_listed_as_data_is_what_the_code_has():
    """Commands list these without importing torch, so names stand beside the functions; none may be there alone."""
    assert set(settings.STARTS) == recovery.STARTS.keys() and set(settings.CURRICULA) == recovery.CURRICULA.keys()
    for method, (where, _) in settings.METHODS.items():
        module, _, function = where.partition(":")
        assert function == method and callable(getattr(importlib.import_module(f"rd3_utils.synthesis.{module}"), function))
    assert sources.SELECTIONS.keys() == selections.SELECTORS.keys()
    assert architectures.TRANSFORMERS.keys() == students.BUILDERS.keys()
    assert all(timm.is_model(name) for name in architectures.OWN)
    assert inspect.signature(data_convert.convert).parameters["most_clipped"].default == cli_convert.MOST_CLIPPED


KINDS = ("random:", "full:", "held-out:", "hf-hub:", "local-dir:", "torchvision:", "sklearn:")  # how a SOURCE may begin
SPLITS = {"partition", "rpartition", "split", "rsplit", "startswith", "removeprefix", "match", "fullmatch", "search"}
KNOW_SOURCES = {
    "data/sources.py",  # the grammar
    "protocols/benchmark.py",  # where a benchmark's own data are
    "hub.py",  # which names a repo may have
    "pushing.py",  # the same, of one that is pushed to
}


def last_names(nodes):
    """What expressions end with: `options.soft_labels` with soft_labels."""
    return {getattr(node, "attr", getattr(node, "id", None)) for node in nodes}


def spelt_sources(tree):
    """Where a module writes or takes apart a SOURCE by hand.

    That is a text that begins as one does (docstrings aside), a cut of what is called source, teacher or soft_labels, its
    comparison with a word of the grammar, and the pattern of repos.
    """
    holders = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = [node.body[0].value for node in holders if node.body and isinstance(node.body[0], ast.Expr)]
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if text.startswith(KINDS) and node not in docstrings:
                yield text
            case ast.Call(func=ast.Attribute(value=value, attr=attr), args=args) if attr in SPLITS:
                yield from [ast.unparse(node)] if last_names([value, *args]) & {"source", "teacher", "soft_labels"} else []
            case ast.Compare(left=left, comparators=[right]) if {"source", "teacher", "repo"} & last_names([left, right]):
                words = {part.value for part in (left, right) if isinstance(part, ast.Constant)}
                yield from [ast.unparse(node)] if words & {"full", "random", "default", "/", ":", "@"} else []
            case ast.Attribute(attr="REPO_ID") | ast.Name(id="REPO_ID"):
                yield "REPO_ID"


@pytest.mark.parametrize("code", [
    "x = f'random:ipc={k},seed=0'", "x = 'hf-hub:' + repo", "images.source.partition('@')[0]", "re.split('[@:]', run.source)",
    "options.soft_labels.split(':')", "images.source == 'full'", "'/' in data.repo", "re.match(hub.REPO_ID.pattern, text)",
])  # fmt: skip
def test_a_source_taken_apart_by_hand_is_found(code):
    assert list(spelt_sources(ast.parse(code))) and not list(spelt_sources(ast.parse(f'"""{code}"""')))


def test_only_one_module_knows_how_a_source_is_written():
    for path in (PROJECT / "rd3_utils").rglob("*.py"):
        if str(path.relative_to(PROJECT / "rd3_utils")) not in KNOW_SOURCES:
            assert not list(spelt_sources(ast.parse(path.read_text()))), path
