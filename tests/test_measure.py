"""Runs stand in one mean only if they measured the same; whatever differs is named, left out, or stops the command."""

import dataclasses
import json
import shutil

import pytest
from conftest import PROJECT, run_script
from making_runs import drawn, made, table

from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.scoring import measure, runs
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.shapes import Refused
from rd3_utils.studies import findings, planning
from rd3_utils.studies import study as studies

A_SPLIT = {**drawn(0), "train": {"fingerprint": "6" * 64, "images": 1297}}
CHANGES = {  # for every fact a change that it must see
    "benchmark": {"benchmark": "cifar10"},
    "test split": {"test": {"fingerprint": "8" * 64}},
    "precision": {"environment": {"precision": "bf16"}},
    "student": {"student": "convnet4"},
    "initialisation of the network": {"network": {"initialisation": 2}},
    "dropout of the network": {"network": {"dropout": 0.2}},
    "stochastic depth of the network": {"network": {"stochastic_depth": 0.2}},
    "number of parameters": {"network": {"parameters": 101}},
    "protocol": {"protocol": {"name": "mine"}},
    "protocol digest": {"protocol": {"digest": "e" * 12}},
    "arm": {"arm": "distilled-plain"},
    "number of images per class": {"images": {"ipc": 2, "images": 20}},
    "images": {"images": {"fingerprint": "e" * 64}},
    "recipe": {"recipe": {"steps": 2}},
    "kind of views": {"views": "each"},
    "views of the labels": {"labels": {"kind": "imported"}},
    "kind of labels": {"labels": {"kind": "static"}},
    "views digest": {"labels": {"views_digest": "b" * 12}},
    "views digest of students": {"labels": {"student_views_digest": "b" * 12}},
    "views seed": {"views_seed": 1},
    "teachers": {"labels": {"teachers_id": "c" * 64}},
    "rule of the ensemble": {"labels": {"ensemble": "mean"}},
    "batch norm of the teachers": {"labels": {"teacher_bn": "groups:50"}},
    "label dtype": {"labels": {"label_dtype": "u8"}},
    "views per teacher pass": {"labels": {"forward_batch": 50}},
}


@pytest.mark.parametrize("what", measure.FACTS)
def test_every_fact_keeps_runs_apart_and_is_named(what):
    if what == "train split":
        one, other = (
            made(arm="random-soft", images=drawn(0)),
            made(arm="random-soft", images={**A_SPLIT, "fingerprint": "9" * 64}),
        )
    else:
        one, other = made(), made(**CHANGES[what])
    for pair in ((one, other), (other, one)):
        verdict = measure.same_measure(*pair)
        assert not verdict and verdict.fact == (what if what != "recipe" else "recipe, steps")
        with_it = {"kind of views": "views seed", "views of the labels": "kind of labels"}.get(what, what)
        assert measure.same_measure(*pair, but=[what, with_it])


def test_seeds_and_draws_of_one_split_measure_the_same_and_bytes_seconds_and_machines_do_not_count():
    assert measure.same_measure(made(seed=0), made(seed=7, seconds=9.0, labels={"bytes": 5}, environment={"threads": 8}))
    assert measure.same_measure(made(arm="random-soft", images=drawn(0)), made(arm="random-soft", images=drawn(1)))
    assert measure.odd_one([made(seed=k) for k in range(3)])
    assert not measure.odd_one([made(), made(seed=1), made(seed=2, views="each", views_seed=2)])


def test_knobs_of_a_recipe_are_compared_one_by_one_but_for_a_rate_that_every_draw_searches():
    recipes = [{"training": {"epochs": 1, "learning_rate": rate, "learning_rates": [0.1, 0.2]}} for rate in (0.1, 0.2)]
    search = {"learning_rate": 0.1}
    draws = [made(images=drawn(k), recipe=recipe, learning_rate_search=search) for k, recipe in enumerate(recipes)]
    assert measure.same_measure(*draws)
    seeds = [made(seed=k, recipe=recipe, learning_rate_search=search) for k, recipe in enumerate(recipes)]
    assert measure.same_measure(*seeds).fact == "training.learning_rate"  # one image set has one search
    assert measure.same_measure(made(), made(recipe={"training": {"epochs": 2}})).fact == "training.epochs"


def test_random_images_of_a_split_that_is_not_recorded_pool_among_themselves_or_where_drawing_again_gives_the_same(select):
    images = select("random:ipc=1,seed=0").describe()
    old = {**images, "train": None}
    first, second = made(schema=1, images=old), made(schema=1, images={**drawn(1), "train": None})
    today = made(images={**drawn(1), "train": images["train"]})
    assert measure.same_measure(first, second)
    assert str(measure.same_measure(first, today)) == f"train split: not recorded and {images['train']['fingerprint'][:8]}"
    assert measure.same_measure(measure.with_split(first, images), today)
    assert measure.with_split(second, images) is second  # other pixels: nothing is known of it


def test_a_split_is_told_from_others_by_labels_order_and_pixels(digits):
    from rd3_utils.data import tables

    train = tables.real(digits, "train")
    other_order = dataclasses.replace(train, rows=train.rows[::-1].copy(), labels=train.labels[::-1].copy())
    fewer = dataclasses.replace(train, rows=train.rows[:-1], labels=train.labels[:-1])
    pixels = train.files.copy()
    pixels[0, 0, 0, 0] ^= 1
    found = {one.split_fingerprint for one in (train, other_order, fewer, dataclasses.replace(train, files=pixels))}
    assert len(found) == 4 and dataclasses.replace(train, source="moved").split_fingerprint == train.split_fingerprint


# Files that are no Runs


BROKEN = {
    "nothing": "",
    "cut": json.dumps(table())[:-40],
    "no table": "[]",
    "another schema": json.dumps({**table(), "schema": 3}),
    "a missing key": json.dumps({key: value for key, value in table().items() if key != "test"}),
    "NaN": json.dumps(table(top1=float("nan"))),
    "a key twice": json.dumps(table())[:-1] + ', "top1": 0.9}',
    "a bomb of brackets": "[" * 100_000,
    "a number beyond all bounds": json.dumps(table(seed=0)).replace('"seed": 0', '"seed": ' + "9" * 30),
    "a text for a number": json.dumps(table(top1="0.5")),
    "true for a number": json.dumps(table(seed=True)),
    "views of its own that are another student's": json.dumps(table(seed=1, views="each", views_seed=0)),
    "a history of words": json.dumps(table(history=["good"])),
    "no training in its recipe": json.dumps({**table(), "recipe": {}}),
    "a training without a number of epochs": json.dumps(table(recipe={"training": {"epochs": -1}})),
    "a loss of words": json.dumps(table(recipe={"loss": ["kl"]})),
    "test images resized to words": json.dumps(table(recipe={"training": {"epochs": 1, "test_resize": [8]}})),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_run_is_named_and_left_out(tmp_path, capsys, what):
    where = Results(tmp_path).path_of(made())
    runs.write(where, table())
    where.with_name("seed1.json").write_text(BROKEN[what])
    assert [run.seed for run in Results(tmp_path).related(made())] == [0]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "left out" in err and "seed1.json is no whole Run" in err and len(err) < 400
    with pytest.raises(UserError, match="is no whole Run of this project"):
        runs.kept(where.with_name("seed1.json"))


def test_a_copy_of_a_run_under_another_name_counts_nowhere(tmp_path, capsys):
    where = Results(tmp_path).path_of(made(seed=1))
    for place in (where, where.with_name("seed7.json"), where.parent.with_name("distilled-soft-each") / "seed1.json"):
        runs.write(place, table(seed=1))
    assert [path for path, _ in Results(tmp_path).runs_of("digits")[0]] == [where]
    assert [run.seed for run in Results(tmp_path).related(made())] == [1]
    assert capsys.readouterr().err.count(f"is the Run that belongs at {where}; remove the file, or move it there.\n") == 2


def test_todays_runs_have_every_key_and_older_ones_are_read_as_they_were():
    for key in ("views", "network"):
        with pytest.raises(Refused, match=f"lacks {key}"):
            runs.of({name: value for name, value in table().items() if name != key})
    with pytest.raises(Refused, match="lacks train"):
        runs.of(table(images={**drawn(0), "train": None}))
    old = {key: value for key, value in table(schema=1).items() if key not in ("views", "network")}
    assert (runs.of(old).views, runs.of(old).network) == ("shared", runs.Network("convnet3", 1))
    assert measure.same_measure(runs.of(old), made())


# Commands

SHORT = "--protocol", "hard-label-v1", "--set", "training.epochs=2"


def found(folder, pattern="results/**/seed*.json"):
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in sorted(folder.glob(pattern))}


def test_kept_runs_of_another_test_split_stop_the_command(script, tmp_path, monkeypatch):
    import train_student

    assert script("train_student", *SHORT).code == 0
    before, whole = found(tmp_path), image_sets.test_split

    def half(*arguments, **named):
        every = whole(*arguments, **named)
        return image_sets.make("half", every.images[:250], every.labels[:250], every.class_names, "half")

    monkeypatch.setattr(train_student.image_sets, "test_split", half)
    done = script("train_student", *SHORT, "--seeds", "0,1")
    assert done.code == 2 and "with another test split: " in done.err and "give another --out" in done.err
    assert done.err.count("\n") == 1 and found(tmp_path) == before
    done = script("train_student", *SHORT, "--seeds", "1")  # beside it: kept apart, and said
    assert (
        done.code == 0 and "left out of the card: 1 Runs of convnet3, distilled-hard" in done.err and "test split" in done.err
    )
    assert json.loads(next(tmp_path.glob("results/**/report.json")).read_text())["arms"]["convnet3"]["distilled-hard"]["n"] == 1


def test_a_run_of_a_network_that_started_otherwise_stops_the_command(script, tmp_path):
    assert script("train_student", *SHORT).code == 0
    ((path, run),) = found(tmp_path).items()
    (tmp_path / path).write_text(json.dumps({**run, "network": {**run["network"], "initialisation": 2}}))
    done = script("train_student", *SHORT)
    assert done.code == 2 and "with another initialisation of the network: 2, and this command has 1" in done.err


def test_a_damaged_run_among_the_results_is_said_and_the_card_is_written(script, tmp_path):
    assert script("train_student", *SHORT).code == 0
    (path,) = tmp_path.glob("results/**/seed0.json")
    path.with_name("seed9.json").write_text('{"schema": 2')
    done = script("train_student", *SHORT, "--seeds", "0,1")
    assert done.code == 0 and "seed9.json is no whole Run" in done.err


def test_students_with_views_of_their_own(script, tmp_path):
    """Student K is the one that shared views of seed K give it, in a folder of its own; the shared seed 0 is taken over."""
    for views in ("0", "1"):
        assert script("train_student", *SHORT, "--seeds", views, "--views-seed", views, "--out", f"shared{views}").code == 0
    assert script("train_student", *SHORT, "--out", "results").code == 0
    assert script("train_student", *SHORT, "--views-seed", "each", "--seeds", "0,1").code == 0
    each = {run["seed"]: run for path, run in found(tmp_path).items() if "/distilled-hard-each/" in path}
    assert {(run["views"], run["views_seed"], run["seed"]) for run in each.values()} == {("each", 0, 0), ("each", 1, 1)}
    for seed in (0, 1):
        ((_, shared),) = found(tmp_path, f"shared{seed}/**/seed{seed}.json").items()
        assert [(e["loss"], each[seed]["top1"]) for e in each[seed]["history"]] == [
            (e["loss"], shared["top1"]) for e in shared["history"]
        ]
    ((_, kept),) = ((path, run) for path, run in found(tmp_path).items() if "/distilled-hard/" in path)
    assert kept["seconds"] == each[0]["seconds"]  # copied, not trained again
    report = json.loads(next(tmp_path.glob("results/**/report.json")).read_text())
    assert report["arms"]["convnet3"]["distilled-hard"]["n"] == 2  # of `each`; the shared one is in no mean with them
    card = next(tmp_path.glob("results/**/README.md")).read_text()
    assert "--views-seed each" in card


def test_labels_of_students_with_views_of_their_own_are_one_store_per_seed(script, tmp_path):
    soft = "--set", "training.epochs=2", "--views-seed", "each"
    done = script("train_student", *soft, "--teacher", "default", "--seeds", "0,1")
    assert done.code == 0, done.err
    assert sorted(path.parent.name[-3:] for path in tmp_path.glob("soft_labels/*/*/index.json")) == ["-s0", "-s1"]
    (store,) = tmp_path.glob("soft_labels/*/*-s0")
    done = script("train_student", *soft, "--seeds", "2", "--soft-labels", store.relative_to(tmp_path))
    assert done.code == 2 and done.err.count("\n") == 1
    assert "holds the labels of views seed 0, and --views-seed each wants a store for every student's seed" in done.err


TWO_SETS = """name = "two"
title = "x"
benchmarks = ["digits"]
seeds = [0]
[[images]]
method = "rded"
source = "./sets/rded/ipc{ipc}"
ipc = [1]
[[images]]
method = "sre2l"
source = "./sets/sre2l/ipc{ipc}"
ipc = [1]
[[grid]]
protocols = ["hard-label-v1"]
set = ["training.epochs=2"]
"""


@pytest.mark.parametrize("quick", [2e8, 0])
def test_a_study_credits_a_run_to_the_set_it_was_trained_on_whatever_the_folders_are_called(
    tmp_path, select, monkeypatch, quick
):
    monkeypatch.chdir(tmp_path)
    for seed, method in enumerate(("rded", "sre2l")):
        image_sets.save(select(f"random:ipc=1,seed={seed}"), tmp_path / "sets" / method / "ipc1")
    (tmp_path / "two.toml").write_text(TWO_SETS)
    assert run_script(tmp_path, "train_student", *SHORT, "--distilled", "sets/rded/ipc1", "--runs-only").code == 0
    monkeypatch.setattr(planning, "QUICK", quick)
    plan = planning.StudyPlan(studies.load(tmp_path / "two.toml"), tmp_path / "results")
    placed = {one.cell.method: one.run is not None for one in plan.place(False)}
    assert placed == {"rded": True, "sre2l": False}
    cells = findings.findings(plan.study, plan.place(False), {}, {})["cells"]
    assert [(cell["method"], cell["n"]) for cell in cells] == [("rded", 1)]
    shutil.rmtree(tmp_path / "sets")  # then nothing tells whose it is
    assert not any(one.run for one in planning.StudyPlan(plan.study, plan.out).place(False))


def test_a_study_credits_no_run_by_the_name_of_a_repo_that_moved(tmp_path):
    """Two Runs say one source and had different images: only the last report tells which one the study speaks of."""
    text = TWO_SETS.replace('name = "two"', 'name = "one"').replace("./sets/rded/ipc{ipc}", "someone/else")
    (tmp_path / "one.toml").write_text(text.replace("./sets/sre2l/ipc{ipc}", "digits-dm-ipc{ipc}"))
    plan = planning.StudyPlan(studies.load(tmp_path / "one.toml"), tmp_path / "results")
    one = next(one for one in plan.place(False) if one.cell.method == "rded")
    own = {"name": one.protocol.name, "digest": one.protocol.digest}
    for fingerprint in ("a" * 64, "b" * 64):
        images = {"name": "else", "source": "someone/else", "fingerprint": fingerprint}
        run = table(protocol=own, arm=one.arm, images=images, labels={"kind": "hard"})
        runs.write(Results(plan.out).path_of(runs.of(run)), run)
        found = [one.run and one.run.images.identity for one in plan.place(False) if one.cell.method == "rded"]
        assert found == (["else@aaaaaaaa"] if fingerprint[0] == "a" else [None])
    plan.facts = {planning.fact_key(one.cell): {"images": "else@bbbbbbbb"}}
    assert [one.run.images.identity for one in plan.place(False) if one.cell.method == "rded"] == ["else@bbbbbbbb"]


def test_a_study_does_not_pool_runs_of_two_test_splits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TWO_SETS.replace('name = "two"', 'name = "one"').replace("seeds = [0]", "seeds = [0, 1]")
    for folder, source in (("rded", "digits-dm-ipc{ipc}"), ("sre2l", "random:ipc={ipc},seed=0")):
        text = text.replace(f"./sets/{folder}/ipc{{ipc}}", source)
    (tmp_path / "one.toml").write_text(text)
    what = "--distilled", "digits-dm-ipc1", "--seeds", "0,1", "--runs-only"
    assert run_script(tmp_path, "train_student", *SHORT, *what).code == 0
    plan = planning.StudyPlan(studies.load(tmp_path / "one.toml"), tmp_path / "results")
    assert sum(one.run is not None for one in plan.place(False)) == 2
    (path,) = tmp_path.glob("results/**/seed1.json")
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "test": {**run["test"], "fingerprint": "8" * 64}}))
    with pytest.raises(UserError, match="has another test split: 88888888, wanted"):
        planning.StudyPlan(plan.study, plan.out).place(False)


def test_every_run_that_the_project_comes_with_is_read_and_every_arm_is_one_measure():
    folders = {}
    for path in (PROJECT / "measured").glob("**/seed*.json"):
        folders.setdefault(path.parent, []).append(runs.read(path))
    assert len(folders) > 90 and all(measure.odd_one(found) for found in folders.values())


def test_a_run_reads_as_many_epochs_of_labels_as_its_recipe_trains_on_and_corrections_say_what_was_there():
    corrected = 0
    for path in (PROJECT / "measured").glob("**/seed*.json"):
        run = runs.read(path)
        if run.labels.epochs is not None:
            training, labels = run.recipe["training"], run.recipe["labels"]
            assert run.labels.epochs == min(labels["distinct_epochs"] or training["epochs"], training["epochs"]), path
        for key, of in (run.corrected or {}).items():
            section, field = key.split(".")
            assert getattr(getattr(run, section), field) != of["was"] and len(of["commit"]) == 40
            corrected += 1
    assert corrected == 36


def test_commands_make_the_draws_that_were_run_and_no_others():
    from rd3_utils.publishing import terminal

    def made_of(draws, arm="random-soft"):
        return [made(arm=arm, images=drawn(draw), seed=seed) for draw, seeds in draws.items() for seed in seeds]

    soft = [made(seed=seed) for seed in (0, 1)]
    for random, wanted in (
        ({0: (0, 1), 1: (0, 1)}, {((0, 1), None): {None, 0, 1}}),
        ({0: (0,), 2: (0,)}, {((0, 1), None): {None}, ((0,), 0): {0}, ((0,), 2): {2}}),
        ({0: (0, 1), 1: (0,)}, {((0, 1), None): {None}, ((0, 1), 0): {0}, ((0,), 1): {1}}),
    ):
        found = terminal.same_commands([*soft, *made_of(random)])
        assert {(seeds, draw): {run.draw for run in mine} for (_, seeds, draw), mine in found.items()} == wanted
        assert sum(map(len, found.values())) == len(soft) + len(made_of(random))


@pytest.mark.parametrize("more", [(), ("--label-dtype", "u8"), ("--set", "views.crop=pad", "--set", "views.padding=0.125")])
def test_both_dry_runs_say_the_same_bytes_of_the_same_labels(script, more):
    label, train = (script(name, "--dry-run", *more) for name in ("generate_soft_labels", "train_student"))
    size = label.out.split(" views, ")[1].split(" in ")[0]
    assert f", {size}, views " in train.out, (size, train.out)
    plain = script("generate_soft_labels", "--labels", "plain", "--dry-run", *more)
    size = plain.out.split(" views, ")[1].split(" in ")[0]
    assert f", {size}, views " in script("train_student", "--arms", "distilled-plain", "--dry-run", *more).out


def test_published_accuracies_are_asked_for_the_students_of_the_command_alone(script, tmp_path, monkeypatch):
    """Another student's Runs lie in --out, and nobody cites its accuracy on the full data."""
    load, cited = benchmarks.load, (benchmarks.Citation("convnet3", 0.98, "somebody"),)
    monkeypatch.setattr(benchmarks, "load", lambda name: dataclasses.replace(load(name), full_data=cited))
    assert script("train_student", *SHORT, "--student", "convnet1").code == 0
    done = script("train_student", *SHORT, "--arms", "lrs", "--draws", "1", "--full-hard", "cited")
    assert done.code == 0 and "somebody" in next(tmp_path.glob("results/**/README.md")).read_text(), done.err
    before = found(tmp_path)
    done = script("train_student", *SHORT, "--student", "convnet1", "--arms", "lrs", "--full-hard", "cited")
    assert done.code == 2 and "cites no full-data accuracy of convnet1" in done.err and done.err.count("\n") == 1
    assert found(tmp_path) == before
