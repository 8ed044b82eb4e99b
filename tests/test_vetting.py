"""A Run is what training writes for what it says it is: any other value of any field is refused, or is one nobody can tell."""

import copy
import dataclasses
import json
import re

import pytest
from conftest import PROJECT

from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.scoring import runs
from rd3_utils.scoring.shapes import Refused
from rd3_utils.verification import as_trained, vetting

MEASURED = PROJECT / "measured"
RESNET = "cifar10/rd3-v1-974086290837/{}/resnet18_cifar-bf16/{}/seed0.json"
HARD = "cifar10/hard-label-v1-dd5df7a75b44/random-ipc1-seed0@6eeded57/resnet18_cifar-bf16/random-hard/seed0.json"
HEX = re.compile(r"[0-9a-f]{12,64}")
OTHER = {  # a value that means something, where a number or letters more would mean nothing
    "benchmark": "digits", "arm": "distilled-hard", "student": "convnet3", "views": "each", "schema": 1,
    "protocol.name": "rded-v1", "protocol.main_labels": "hard", "labels.kind": "imported", "labels.ensemble": "norm_balanced",
    "labels.teacher_bn": "groups:10", "labels.label_dtype": "u8", "labels.device": "cuda", "environment.precision": "fp32",
    "environment.processes": 2, "top1": 0.5, "top5": 1.0, "test.ipc": None,
    "labels.recognised": 0.4,
}  # fmt: skip


def measured(arm):
    """A Run of schema 2 with labels of the teacher that comes with the project, whole."""
    name = "random-ipc1-seed0@6eeded57" if arm.startswith("random") else "dm-ipc1@0a2b7043"
    return json.loads((MEASURED / RESNET.format(name, arm)).read_text())


def from_elsewhere(run):
    """The same with labels by a teacher that nobody has, from a store on the Hub, of images there if they are distilled."""
    run = copy.deepcopy(run)
    run["weights"] = {"sha256": "7" * 64}
    run["test"] |= {"source": "uoft-cs/cifar10", "commit": "6" * 40}
    if run["arm"].startswith("random"):
        run["images"]["commit"] = "6" * 40
    else:
        run["images"] |= {"name": "set-a", "source": "some/set:a", "commit": "5" * 40}
        run["images"]["checks"] = dict.fromkeys(("test_images", "near_test_images", "repeated", "conflicts"), 0)
    run["teachers"][0] |= {"source": "hf-hub:some/teacher", "commit": "1" * 40, "sha256": "2" * 64, "top1": 0.9}
    run["labels"] |= {"teachers_id": "3" * 64, "source": "some/labels", "commit": "4" * 40, "recognised": 0.5}
    run["labels"]["mistaken"] = [{"own": "cat", "taken_for": "dog", "times": 1, "images": 1}]
    return run


def refused(run):
    try:
        vetting.vetted(json.dumps(run).encode())
    except Refused as why:
        return str(why)
    return None


def leaves(value, path=()):
    """[(path, value)] of every leaf; of a list of many tables the first and the last."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for i in sorted({0, len(value) - 1}):
            yield from leaves(value[i], (*path, i))
    else:
        yield path, value


def name_of(path):
    return ".".join(str(part) for part in path if not isinstance(part, int))


def another(name, value):
    """Another value of the same form, as valid by itself."""
    if name == "images.source" and value.startswith("random"):
        return "random:ipc=1,seed=1"
    if name in OTHER and OTHER[name] != value:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, str):
        return ("0" if value[0] != "0" else "1") + value[1:] if HEX.fullmatch(value) else f"{value}x"
    if isinstance(value, (list, dict)):
        return [1] if isinstance(value, list) else {"training.epochs": 3}
    return 1 if name.endswith("ipc") else "1" * 40  # null


def with_other(run, path, value):
    run = copy.deepcopy(run)
    table = run
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
    return run


def is_stated(name):
    """Whether the table of what only its publisher knows has a field, or the table that it is in."""
    known = {field for fields in as_trained.STATED for field in fields.split(", ")}
    return any(name == field or name.startswith(f"{field}.") for field in known)


@pytest.fixture(scope="module")
def tried():
    """{field: what became of the Runs in which it alone had another value}: reasons, None where the Run was taken."""
    known = {}
    runs = [measured("distilled-soft"), measured("random-soft")]
    for run in [*runs, *map(from_elsewhere, runs), json.loads((MEASURED / HARD).read_text())]:
        assert refused(run) is None
        for path, value in leaves(run):
            name = name_of(path)
            known.setdefault(name, []).append(refused(with_other(run, path, another(name, value))))
    return known


def test_another_value_of_any_field_is_refused_or_one_that_only_its_publisher_knows(tried):
    taken = {name for name, reasons in tried.items() if None in reasons}
    assert {name for name in taken if not is_stated(name)} == set()
    assert len(tried) > 150 and len(as_trained.STATED) <= 25  # a table that is read


def test_the_table_of_what_only_its_publisher_knows_holds_nothing_that_can_be_told(tried):
    """For each of its fields there is a Run that is taken with another value of it."""
    taken = {name for name, reasons in tried.items() if None in reasons}
    rare = {"history.test_top1", "learning_rate_search", "labels.online", "corrected"}  # of no such Run
    for fields in as_trained.STATED:
        for field in set(fields.split(", ")) - rare:
            assert any(name == field or name.startswith(f"{field}.") for name in taken), field


def test_a_reason_names_the_field_and_both_values():
    run = measured("distilled-soft")
    assert refused(with_other(run, ("labels", "epochs"), 7)) == "its labels.epochs is 7, training makes it 400"
    false = with_other(run, ("network", "parameters"), 1)
    assert refused(false) == "its network.parameters is 1, training makes it 11173962"
    assert "training makes it 0.00" in refused(with_other(run, ("history", 5, "learning_rate"), 0.5))


# Teachers that training refuses

TAUGHT = ["cvdd-v1", "edc-v1", "fadrm-plus-v1", "gvbsm-v1", "rd3-v1"]


def under(name):
    """A Run under a released protocol with teachers as it wants them, whole: as training would write it."""
    run, bench, protocol = measured("distilled-soft"), benchmarks.load("cifar10"), protocols.load(name)
    recipe = protocol.resolve(bench, "resnet18_cifar", 1, 10, "soft")
    names = recipe.labels.architectures or ["convnet4"] * recipe.labels.teachers
    teacher = run["teachers"][0]
    run["teachers"] = [
        {**teacher, "source": f"local-dir:{arch}", "architecture": arch, "sha256": f"{i:064x}"} for i, arch in enumerate(names)
    ]
    run["labels"]["teachers_id"] = "3" * 64
    run["protocol"] |= {"name": name, "digest": protocol.digest, "knobs": json.loads(json.dumps(protocol.knobs))}
    run["recipe"] = json.loads(json.dumps(recipe.as_dict()))
    run["history"] = [{"epoch": i, "loss": 1.0, "learning_rate": rate} for i, rate in enumerate(as_trained.rates(recipe))]
    made = as_trained.as_trained(runs.of(run), protocol, recipe, bench)
    return {**run, "labels": {key: value for key, value in dataclasses.asdict(made.labels).items() if value is not None}}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_run_with_teachers_that_training_refuses_is_refused(name):
    run = under(name)
    assert refused(run) is None
    teacher, rest = run["teachers"][0], run["teachers"][1:]
    wrong = {
        "one more": ([teacher, *run["teachers"]], "teachers, its recipe has"),
        "one less": (rest, "teachers, its recipe has"),
        "below the floor": ([{**teacher, "top1": 0.7499}, *rest], "cifar10 wants at least 0.75"),
        "never examined": ([{**teacher, "top1": None}, *rest], "cifar10 wants at least 0.75"),
        "of no number of test images": ([{**teacher, "top1": 0.812345}, *rest], "no whole number of 10000 images"),
    }
    if run["recipe"]["labels"].get("architectures"):
        wrong["another architecture"] = [{**teacher, "architecture": "convnet1"}, *rest], "is missing"
    for what, (teachers, words) in wrong.items():
        assert words in (refused({**run, "teachers": teachers}) or "taken"), what
    for key, value in {"views_digest": "0" * 12, "ensemble": "nonsense", "views_seed": 1, "epochs": 1, "bytes": 1}.items():
        assert f"its labels.{key} is" in (refused(with_other(run, ("labels", key), value)) or "taken"), key


def test_the_teacher_that_comes_with_the_project_is_known_by_any_of_its_names():
    """Its source, weights or labels claimed by another network, or another accuracy of it."""
    run = measured("distilled-soft")
    for path, value, words in [
        (("teachers", 0, "sha256"), "0" * 64, "its teachers[0].sha256 is"),
        (
            ("teachers", 0, "architecture"),
            "resnet18",
            "'resnet18', training makes it 'convnet3_bn'",
        ),
        (("teachers", 0, "top1"), 0.95, "its teachers[0].top1 is 0.95, training makes it 0.8565"),
        (("labels", "teachers_id"), "0" * 64, "its labels.teachers_id is"),
    ]:
        assert words in (refused(with_other(run, path, value)) or "taken")
    claimed = from_elsewhere(run)
    claimed["labels"]["teachers_id"] = run["labels"]["teachers_id"]
    assert "its teachers[0]." in refused(claimed)
