"""Studies: what a file asks for, jobs that nobody does twice, and a whole study with real processes."""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

import pytest
import torch
import warm
from conftest import PROJECT, run_script
from making_runs import drawn, made, table

from rd3_utils.data import soft_labels, tables
from rd3_utils.errors import UserError
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.results import Results
from rd3_utils.studies import commands, devices, figures, findings, jobs, planning, progress, ranking
from rd3_utils.studies import report as study_report
from rd3_utils.studies import study as studies
from rd3_utils.studies.ranking import TableCell

STUDIES = sorted((PROJECT / "studies").glob("*.toml"))
SMOKE = PROJECT / "studies" / "digits-smoke.toml"
SMALL = """
name = "small"
title = "Small"
benchmarks = ["digits"]
seeds = [0, 1]

[[images]]
method = "dm"
source = "digits-dm-ipc{ipc}"
ipc = [1, 10]

[[images]]
method = "random"
source = "random:ipc={ipc},seed={draw}"
ipc = [1, 10]
draws = [0, 1, 2]

[[grid]]
protocols = ["rd3-v1", "hard-label-v1"]
ipc = [1]

[[ablation]]
protocol = "rd3-v1"
methods = ["dm"]
ipc = [1, 10]
[ablation.knobs]
"training.batch_size" = [5, 10]
"training.zeta" = [1.0]
"""


@pytest.fixture
def small(tmp_path):
    """small(text) -> the Study of a file of that text."""

    def write(text=SMALL, name="small"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return studies.load(path)

    return write


# --- what a file asks for


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_plans_without_network_or_data_and_trains_no_recipe_twice(path, tmp_path, monkeypatch):
    study, placed, place = studies.load(path), [], planning.StudyPlan.place
    monkeypatch.setattr(planning.StudyPlan, "place", lambda *given: placed.extend(found := place(*given)) or found)
    done = run_script(tmp_path, "rd3_utils", "study", path, "--dry-run")
    assert done.code == 0, done.err
    plan = planning.StudyPlan(study, tmp_path / "results")
    assert f"{len(plan.cells)} cells" in done.out and not list(tmp_path.iterdir())
    lacking = [cell for cell in studies.cells(study) if cell.optional and not (path.parent / cell.source).exists()]
    assert len(studies.cells(study)) == len(plan.cells) + len(lacking) and len(placed) == len(plan.cells)
    variants = {}
    for one in placed:
        cell = one.cell
        same = cell.benchmark, one.source, one.recipe, cell.student, cell.seed, one.teachers
        variants.setdefault(same, []).append(cell.variant)
    assert not [names for names in variants.values() if len(names) > 1]


def test_the_study_on_cifar10_has_the_cells_of_its_table():
    """4 methods x 3 seeds x (4 protocols x 2 sizes + 2 at IPC 50), 3 draws x 3 seeds at IPC 1, x 1 above; DM's own."""
    cells = studies.cells(studies.load(PROJECT / "studies" / "cifar10-cpu.toml"))
    assert len(cells) == len(set(cells)) == 4 * 3 * (4 * 2 + 2) + 3 * (3 * 4 + 4 + 2) + 3 * 2
    assert {cell.protocol for cell in cells if cell.ipc == 50} == {"rd3-v1", "hard-label-v1"}
    assert {cell.student for cell in cells} == {"convnet3"}


def test_a_plan_has_every_cell_once_also_where_grid_and_ablation_meet(small):
    """4 sets x 2 protocols x 2 seeds; of dm, IPC 10 under the base and 3 variants at 2 sizes; its base at IPC 1 is there."""
    cells = studies.cells(small())
    assert len(cells) == len(set(cells)) == 4 * 2 * 2 + (1 + 2 * 3) * 2
    assert sum(cell.set == ("training.zeta=1.0",) for cell in cells) == 4


def test_neighbours_share_images_and_the_parts_are_the_whole(small):
    cells = studies.cells(small())
    parts = [planning.part_of_array(cells, i, 7) for i in range(7)]
    assert sum(parts, []) == cells and max(map(len, parts)) - min(map(len, parts)) <= 1
    sources = [cell.source for cell in cells]
    assert sum(a != b for a, b in zip(sources, sources[1:])) == len(set(sources)) - 1


def test_a_student_of_all_the_data_is_one_cell_under_its_own_protocol(small, tmp_path):
    study = small(SMALL.replace('"random:ipc={ipc},seed={draw}"\nipc = [1, 10]\ndraws = [0, 1, 2]', '"full"'))
    full = [cell for cell in studies.cells(study) if cell.source == "full"]
    assert [(cell.protocol, cell.set, cell.seed) for cell in full] == [("teacher-v1", (), 0), ("teacher-v1", (), 1)]
    (one, _) = planning.StudyPlan(study, tmp_path).place(True, full)
    assert one.arm == "full-hard" and "full@" in str(one.path)


def test_paths_are_those_of_the_study_file_and_unread_sets_are_planned_by_name(small, tmp_path):
    text = SMALL.replace('"digits-dm-ipc{ipc}"', '"sets/dm-ipc{ipc}"\nmake = "synthesize dm --ipc {ipc}"')
    plan = planning.StudyPlan(small(text), tmp_path / "out")
    one = plan.place(False)[0]
    assert (one.folder, one.known.identity, one.known.images, one.path) == (tmp_path / "sets/dm-ipc1", None, 10, None)
    (job,) = commands.make_jobs(plan, [one])
    assert job == tmp_path / "sets/dm-ipc1"
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc1", one.folder)
    again = planning.StudyPlan(plan.study, plan.out).place(False)[0]
    assert again.known.identity == "dm-ipc1@1502343e" and again.recipe == one.recipe
    assert not commands.make_jobs(plan, [again])


def test_a_set_that_nobody_makes_is_asked_for(small, tmp_path):
    plan = planning.StudyPlan(small(SMALL.replace('"digits-dm-ipc{ipc}"', '"./dm-ipc{ipc}"')), tmp_path / "out")
    with pytest.raises(UserError, match="no images in .*dm-ipc1; put them there"):
        plan.place(True)


OPTIONAL = """
[[images]]
method = "mine"
source = "./mine-ipc{ipc}"
ipc = [1, 10]
optional = true
"""


def test_an_optional_set_that_is_not_there_is_left_out_and_named(small, tmp_path):
    text = SMALL.replace("[[grid]]", f"{OPTIONAL}\n[[grid]]", 1)
    plain = len(studies.cells(small()))
    done = run_script(tmp_path, "rd3_utils", "study", small(text).folder / "small.toml", "--dry-run")
    assert done.code == 0 and f"{plain} cells" in done.out
    assert "left out: mine, for mine-ipc1 is not there" in done.out and "others" not in done.out  # IPC 10 is in no grid
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc1", tmp_path / "mine-ipc1")
    plan = planning.StudyPlan(small(text), tmp_path / "out")
    assert len(plan.cells) == plain + 2 * 2 and not plan.left_out
    told = findings.findings(plan.study, plan.place(False), {}, {"mine": ["mine-ipc1"]})["notes"]
    assert "Left out, for these images are not there: mine (mine-ipc1)." in told


def test_runs_of_an_optional_set_count_when_its_images_are_gone(small, tmp_path):
    study, out = small(SMALL.replace("[[grid]]", f"{OPTIONAL}\n[[grid]]", 1)), tmp_path / "out"
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc1", tmp_path / "mine-ipc1")
    one = next(one for one in planning.StudyPlan(study, out).place(False) if one.cell.method == "mine")
    images = {"name": "mine-ipc1", "source": "mine-ipc1", "fingerprint": one.known.stated["fingerprint"]}
    own = {"name": one.protocol.name, "digest": one.protocol.digest}
    run_files.write(one.path, table(student=one.cell.student, seed=one.cell.seed, arm=one.arm, protocol=own, images=images))
    shutil.rmtree(tmp_path / "mine-ipc1")
    assert [cell for cell in planning.StudyPlan(study, out).cells if cell.method == "mine"] == [one.cell]


def test_what_a_teacher_recognised_is_of_these_images_alone(small, tmp_path):
    """Facts of images that lay there before are dropped; damaged stores and those of strangers change nothing."""
    study = small(SMALL.replace("[[grid]]", f"{OPTIONAL}\n[[grid]]", 1))
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc1", tmp_path / "mine-ipc1")
    placed = [one for one in planning.StudyPlan(study, tmp_path / "out").place(False) if one.cell.method == "mine"]
    store, key = tmp_path / "labels" / placed[0].known.identity / "t-v-s0", planning.fact_key(placed[0].cell)
    store.mkdir(parents=True)
    for teachers, share in ((None, 0.5), ([{"architecture": "x"}], 0.5), (TEACHERS, "all"), ("{", 0.5), (TEACHERS, 0.5)):
        index = {**dict.fromkeys(INDEX), "format": "rd3-soft-labels", "version": 1, "teachers": teachers, "recognised": share}
        (store / "index.json").write_text("{" if teachers == "{" else json.dumps(index))
        facts = findings.image_facts(placed, {}, tmp_path / "labels")
        assert facts[key].get("recognised", {}) == ({"x 0123abcd": 0.5} if (teachers, share) == (TEACHERS, 0.5) else {})
    assert findings.image_facts(placed, facts, tmp_path / "none") == facts
    [row] = findings.recognised_rows(placed, facts)
    assert (row["method"], row["teachers"], row["recognised"], row["sets"]) == ("mine", "x 0123abcd", 0.5, 1)
    for sha256, told in (("4567" * 16, {}), (TEACHERS[0]["sha256"], {"x 0123abcd": 0.5})):  # of the Runs, if there are any
        images = {"name": "mine-ipc1", "fingerprint": placed[0].known.identity.partition("@")[2] + "0" * 56}
        run = made(images=images, teachers=[{**TEACHER, "sha256": sha256}])
        trained = [dataclasses.replace(placed[0], run=run)]
        for known in ({}, facts):
            assert findings.image_facts(trained, known, tmp_path / "labels")[key].get("recognised", {}) == told
    shutil.rmtree(tmp_path / "mine-ipc1")
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc10", tmp_path / "mine-ipc1")
    placed = [one for one in planning.StudyPlan(study, tmp_path / "out").place(False) if one.cell.method == "mine"]
    assert "recognised" not in findings.image_facts(placed, facts, tmp_path / "none")[key] and "recognised" in facts[key]


TEACHERS = [{"architecture": "x", "sha256": "0123abcd" * 8}]
TEACHER = {"source": "x", "commit": None, "architecture": "x", "sha256": "0123abcd" * 8, "top1": 0.9}
INDEX = [f.name for f in dataclasses.fields(soft_labels.StorePlan)] + ["epochs_per_shard", "shards"]


def test_a_study_of_nothing_but_missing_sets_says_where_to_put_one(small, tmp_path):
    text = SMALL.split("[[images]]")[0] + OPTIONAL + '\n[[grid]]\nprotocols = ["hard-label-v1"]\n'
    with pytest.raises(UserError, match="all missing; put one into .*mine-ipc1"):
        planning.StudyPlan(small(text), tmp_path / "out")


BAD = {
    "optional": ('ipc}"\nipc = [1, 10]\n\n', 'ipc}"\nipc = [1, 10]\noptional = true\n\n', "that is for folders"),
    "name": ('name = "small"', 'name = "other"', "names itself 'other', wanted 'small'"),
    "field": ("seeds =", "seedz =", "did you mean 'seeds'?"),
    "type": ("seeds = [0, 1]", 'seeds = ["a"]', "seeds is 'a' (str), wanted int"),
    "method": ('methods = ["dm"]', 'methods = ["md"]', "unknown method 'md'"),
    "ipc": ("ipc = [1]", "ipc = [7]", "unknown ipc '7'"),
    "template": ("ipc={ipc},seed={draw}", "ipc={ipc},seed=0", "is one set for several ipc or draws"),
    "place": ("{draw}", "{drawn}", "may hold {ipc}, {draw} and {benchmark} only"),
    "benchmark": ('benchmarks = ["digits"]', 'benchmarks = ["digit"]', "did you mean 'digits'?"),
    "protocol": ('"hard-label-v1"]', '"hard-label-v2"]', "did you mean 'hard-label-v1'?"),
    "knob": ('"training.zeta"', '"training.zetta"', "did you mean 'training.zeta'?"),
    "values": ("= [1.0]", "= 1.0", "wanted a list of values"),
    "table": ("[[grid]]", "[grid]", "wanted [[grid]]"),
    "own": ("[[grid]]", '[own]\nrded = "rd3-v1"\n\n[[grid]]', "unknown method of [own] 'rded'"),
    "teachers": ('protocols = ["rd3-v1", "hard-label-v1"]', 'protocols = ["rd3-v1"]\nset = ["labels.teachers=2"]',
                 "with 2 teachers, [teachers.digits] names 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_study_gets_one_clear_line(case, tmp_path):
    old, new, wanted = BAD[case]
    assert old in SMALL
    (tmp_path / "small.toml").write_text(SMALL.replace(old, new, 1))
    done = run_script(tmp_path, "rd3_utils", "study", "small.toml", "--dry-run")
    assert done.code == 2 and done.err.count("error:") == 1 and wanted in done.err, done.err


def test_options_that_contradict_each_other_are_refused(tmp_path):
    for words, wanted in (
        (["--index", "1"], "--index I and --count N go together"),
        (["--index", "2", "--count", "2"], "numbered from 0 to 1"),
        (["--config", "nowhere.yaml"], "is no config file of accelerate"),
        (["--workers", "2", "--config", PROJECT / "accelerate_configs/cpu_2_processes.yaml"], "2 processes each"),
    ):
        done = run_script(tmp_path, "rd3_utils", "study", SMOKE, *words)
        assert done.code == 2 and wanted in done.err, done.err


def test_a_slurm_array_task_does_its_part(tmp_path, monkeypatch):
    for key, value in {"ID": 5, "MIN": 4, "COUNT": 4}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    assert "2 cells in 1 groups" in run_script(tmp_path, "rd3_utils", "study", SMOKE, "--dry-run").out
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "8")
    assert progress.array_task() == (2, 4)
    monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "1")  # as in --array=4,5,8,10
    with pytest.raises(UserError, match="4 tasks from 4 to 10 has gaps"):
        progress.array_task()


def test_every_benchmark_of_a_study_has_a_folder_of_its_own(small, tmp_path):
    study = small(SMALL.replace('["digits"]', '["digits", "cifar10"]').replace('"digits-dm', '"{benchmark}-dm', 1))
    folders = tables.data_dirs(["digits=here", "cifar10=there"], study.benchmarks)
    plan = planning.StudyPlan(study, tmp_path, folders)
    plan.known = {(name, f"{name}-dm-ipc1"): planning.Known("x@1", 1, 10) for name in study.benchmarks}  # none is read
    cells = [cell for cell in plan.asked if cell.method == "dm" and cell.ipc == 1]
    _, of = commands.train_jobs(plan, [plan.placed(cell, False) for cell in cells], "cpu.yaml")
    for job, one in of.items():
        assert job.command[job.command.index("--data-dir") + 1] == {"digits": "here", "cifar10": "there"}[one.cell.benchmark]
    assert {one.cell.benchmark for one in of.values()} == {"digits", "cifar10"}
    done = run_script(tmp_path, "rd3_utils", "study", PROJECT / "studies/rd3-small-table.toml", "--data-dir", "x", "--dry-run")
    assert done.code == 2 and "write NAME=DIR" in done.err


def test_real_images_have_no_learned_labels_and_a_plan_says_so(small, tmp_path):
    study = small(SMALL.replace('["rd3-v1", "hard-label-v1"]', '["datm-v1"]'))
    with pytest.raises(UserError, match="datm-v1 trains on labels that come with a set, and random, real images, has none"):
        planning.StudyPlan(study, tmp_path).place(False)


def test_a_broken_set_stops_its_own_cells_only(small, tmp_path):
    shutil.copytree(PROJECT / "rd3_utils/embedded/digits-dm-ipc1", tmp_path / "sets/dm-ipc1")
    (tmp_path / "sets/dm-ipc1/train-00000-of-00001.parquet").write_bytes(b"broken")
    plan = planning.StudyPlan(small(SMALL.replace('"digits-dm-ipc{ipc}"', '"./sets/dm-ipc{ipc}"')), tmp_path / "out")
    placed = [one for one in plan.place(False) if one.cell.ipc == 1]
    assert {one.known.identity is None for one in placed if one.cell.method == "dm"} == {True}
    assert {one.known.identity is None for one in placed if one.cell.method == "random"} == {False}
    with pytest.raises(UserError, match="dm-ipc1"):
        plan.place(True, [placed[0].cell])


def test_a_part_without_cells_has_nothing_to_do_and_says_so(tmp_path):
    done = run_script(tmp_path, "rd3_utils", "study", SMOKE, "--dry-run", "--index", "0", "--count", "1000")
    assert done.code == 0 and "0 cells in 0 groups" in done.out and "to train: 0 students" in done.out


def test_a_report_of_nothing_does_not_replace_one(tmp_path):
    done = run_script(tmp_path, "rd3_utils", "study", SMOKE, "--report-only")
    assert (
        done.code == 2
        and "no cell of digits-smoke at fp32 (cpu.yaml) is in results" in done.err
        and not list(tmp_path.iterdir())
    )


def test_the_cost_is_by_the_time_per_image_of_the_nearest_kept_runs(small, tmp_path):
    """dm at IPC 1 under rd3-v1: 400 epochs x 10 images; ten Runs of half of that, and ten of a hundredth, of 1 s.

    Those of another kind of device tell nothing.
    """
    for k, (epochs, seconds) in enumerate([(200, 3 + k) for k in range(5)] + [(200, 60)] * 5 + [(4, 1)] * 10):
        run = table(seed=k, seconds=seconds, recipe={"training": {"epochs": epochs}, "images": 10})
        run_files.write(Results(tmp_path).path_of(run_files.of(run)), run)
    plan = planning.StudyPlan(small(), tmp_path)
    one = next(one for one in plan.place(False) if one.cell.variant == "rd3-v1" and one.cell.ipc == 1)
    assert plan.seconds(one) == pytest.approx((7 + 60) / 2 * 2)
    assert planning.StudyPlan(small(), tmp_path, device="cuda").seconds(one) is None
    assert planning.StudyPlan(small(), tmp_path / "elsewhere").seconds(one) is None


def test_labels_are_one_job_before_the_students_that_read_them(small, tmp_path):
    plan = planning.StudyPlan(small(SMALL.replace('"training.zeta" = [1.0]', '"training.epochs" = [10, 500]')), tmp_path)
    plan.soft_labels = str(tmp_path / "labels")
    placed = [one for one in plan.place(True) if one.cell.method == "dm" and one.cell.ipc == 1]
    todo, of = commands.train_jobs(plan, placed, "cpu.yaml")
    made = [job for job in todo if job not in of]
    assert len(made) == 1 and "training.epochs=500" in made[0].command  # serves those of 10 and 400 epochs, too
    assert all(job.after == (made if one.arm == "distilled-soft" else []) for job, one in of.items())
    assert all(todo.index(made[0]) < todo.index(job) for job in of if job.after) and len(of) == len(placed)


# --- jobs: real processes, quick ones

WORKER = """
import importlib.util, signal, sys; from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
spec = importlib.util.spec_from_file_location("jobs", JOBS)  # without the rest of the package, which takes seconds
jobs = sys.modules["jobs"] = importlib.util.module_from_spec(spec); spec.loader.exec_module(jobs)
here = Path(sys.argv[1])
def job(i):
    command = ["sh", "-c", sys.argv[2].replace("NUMBER", str(i))]
    return jobs.Job(f"job {i}", command, (here / f"{i}.result").is_file, here / f"{i}.claim", here / f"{i}.log")
from rd3_utils import subprocesses
with subprocesses.interruptible():
    jobs.run([job(i) for i in range(int(sys.argv[3]))], [{}] * 2, here / "lock", lambda j: print(j.name, j.state, j.mine))
""".replace("JOBS", repr(jobs.__file__))


def worker(folder, command, count):
    """A process that runs `count` jobs of `command` in `folder`, two at a time."""
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), command, str(count)], cwd=folder, text=True,
                            env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE)  # fmt: skip


def until(condition, seconds=60):
    """Wait until `condition()`."""
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(0.02)
    assert condition()


def test_three_commands_at_once_do_every_job_once(tmp_path):
    command = "echo started >> NUMBER.starts; sleep 0.3; touch NUMBER.result"
    outs = [process.communicate(timeout=100)[0] for process in [worker(tmp_path, command, 8) for _ in range(3)]]
    assert [(tmp_path / f"{i}.starts").read_text() for i in range(8)] == ["started\n"] * 8
    assert all(out.count(" done ") == 8 for out in outs) and sum(out.count("True") for out in outs) == 8
    assert not list(tmp_path.glob("*.claim"))


def test_what_a_killed_command_had_started_is_waited_for_not_started_again(tmp_path):
    command = "echo started >> NUMBER.starts; while [ ! -e go ]; do sleep 0.05; done; touch NUMBER.result"
    killed = worker(tmp_path, command, 2)
    until(
        lambda: (
            len(list(tmp_path.glob("*.starts"))) == 2 and all(jobs.read_claim(c).get("group") for c in tmp_path.glob("*.claim"))
        )
    )
    killed.kill()
    killed.communicate()
    again = worker(tmp_path, command, 2)
    time.sleep(1.5)
    assert again.poll() is None
    (tmp_path / "go").touch()
    out = again.communicate(timeout=60)[0]
    assert out.count(" done False") == 2 and not list(tmp_path.glob("*.claim"))
    assert [(tmp_path / f"{i}.starts").read_text() for i in range(2)] == ["started\n"] * 2


def test_what_died_with_its_command_is_taken_over(tmp_path):
    command = "echo started >> NUMBER.starts; [ -e go ] || sleep 600; touch NUMBER.result"
    killed = worker(tmp_path, command, 1)
    until(lambda: (tmp_path / "0.starts").exists() and jobs.read_claim(tmp_path / "0.claim").get("group"))
    os.killpg(jobs.read_claim(tmp_path / "0.claim")["group"], signal.SIGSTOP)  # so that the killed one cannot see it end
    killed.kill()
    killed.communicate()
    os.killpg(jobs.read_claim(tmp_path / "0.claim")["group"], signal.SIGKILL)
    (tmp_path / "go").touch()
    assert "job 0 done True" in worker(tmp_path, command, 1).communicate(timeout=60)[0]
    assert (tmp_path / "0.starts").read_text() == "started\n" * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_command_ends_what_it_started(tmp_path, number):
    process = worker(tmp_path, "sleep 600 & echo $! > NUMBER.pid; wait", 2)
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 and all(p.read_text().strip() for p in tmp_path.glob("*.pid")))
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert all(jobs.born(int(p.read_text())) is None for p in tmp_path.glob("*.pid")) and not list(tmp_path.glob("*.claim"))


def job_of(folder, name, command, after=()):
    return jobs.Job(
        name, ["sh", "-c", command], (folder / name).is_file, folder / f"{name}.claim", folder / f"{name}.log", list(after)
    )


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path):
    bad = job_of(tmp_path, "bad", "echo noise; echo 'error: no such knob.' >&2; echo more noise; exit 2")
    silent = job_of(tmp_path, "silent", "exit 0")  # says it is well and leaves no result
    child = job_of(tmp_path, "child", f"touch {tmp_path}/child", [bad])
    good = job_of(tmp_path, "good", f"touch {tmp_path}/good; exit 3", [])
    later = job_of(tmp_path, "later", f"test -e {tmp_path}/good && touch {tmp_path}/later", [good])
    seen = []
    jobs.run([bad, silent, child, good, later], [{}], tmp_path / "lock", lambda job: seen.append(job.name))
    assert [job.state for job in (bad, silent, child, good, later)] == ["failed", "failed", "failed", "done", "done"]
    assert bad.error == "error: no such knob." and silent.error == "exit code 0" and child.error.endswith("this failed: bad")
    assert sorted(seen) == ["bad", "child", "good", "later", "silent"] and not (tmp_path / "child").exists()


def test_a_claim_holds_while_its_process_lives_and_is_fresh_on_another_host(tmp_path):
    claim, lock = tmp_path / "claim", tmp_path / "lock"
    assert jobs.take(claim, lock) and not jobs.take(claim, lock)  # we live
    mine = jobs.read_claim(claim)
    for changed, age, wanted in (
        ({"born": "an earlier process of this number"}, 0, False),
        ({"host": "elsewhere"}, 0, True),
        ({"host": "elsewhere"}, jobs.STALE + 1, False),
        ({"born": "earlier", "group": os.getpgid(0), "group_born": jobs.born(os.getpgid(0))}, 0, True),
        ({"born": "earlier", "group": os.getpgid(0), "group_born": "earlier"}, 0, jobs.born(os.getpgid(0)) is None),
    ):
        claim.write_text(json.dumps({**mine, **changed}))
        os.utime(claim, (time.time() - age,) * 2)
        assert jobs.held(claim) is wanted, changed
    claim.write_text("")  # its maker has not written it yet
    assert jobs.held(claim)
    os.utime(claim, (0, 0))
    assert jobs.take(claim, lock) and jobs.read_claim(claim)["host"] == socket.gethostname()
    jobs.release(claim)
    assert not claim.exists()


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = devices.read_config(PROJECT / "accelerate_configs/cpu.yaml")
    monkeypatch.setattr(devices.subprocesses, "cores", lambda: 2)
    assert [place["OMP_NUM_THREADS"] for place in devices.places(2, config)] == ["1", "1"]
    monkeypatch.setattr(devices.subprocesses, "cores", lambda: 16)
    assert [place["OMP_NUM_THREADS"] for place in devices.places(3, config)] == ["5"] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [place["OMP_NUM_THREADS"] for place in devices.places(1, config)] == ["3"]
    assert (devices.precision_of(config), devices.device_of(config)) == ("fp32", "cpu")
    assert devices.precision_of(devices.read_config(PROJECT / "accelerate_configs/single_gpu_bf16.yaml")) == "bf16"


def test_every_worker_on_gpus_gets_one_of_its_own_and_a_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(devices.subprocesses, "cores", lambda: 16)
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    config = devices.read_config(PROJECT / "accelerate_configs/single_gpu_bf16.yaml")
    assert devices.places(4, config) == [{"CUDA_VISIBLE_DEVICES": str(i), "OMP_NUM_THREADS": "4"} for i in range(4)]
    assert devices.places(1, config) == [{}]  # accelerate takes the first that this process sees
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab")  # what a scheduler gave
    places = devices.places(3, config)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["5", "GPU-ab", "5"]  # two share the first
    assert {place["OMP_NUM_THREADS"] for place in places} == {"5"}


def test_a_plan_and_its_tables_keep_the_order_of_the_file(small):
    cells = studies.cells(small())
    mine = [cell.variant for cell in cells if (cell.method, cell.ipc, cell.seed) == ("dm", 1, 0)]
    knobs = "training.batch_size=5", "training.batch_size=10", "training.zeta=1.0"
    assert mine == ["rd3-v1", "hard-label-v1", *(f"rd3-v1, {knob}" for knob in knobs)]


def pages_asked_for(environment):
    """How many pages a process asks the kernel for while it takes and frees 40 MB ten times, once that is a habit."""
    code = (
        "import resource, torch\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for turn in range(20):\n"
        "    before = before if turn > 10 else faults()\n"
        "    torch.ones(10_000_000)\n"
        "print(faults() - before)"
    )
    words = [sys.executable, "-c", code]
    return int(subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="variables of glibc")
def test_a_place_on_a_cpu_keeps_its_memory_unless_the_user_said_what_malloc_does(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    config = devices.read_config(PROJECT / "accelerate_configs/cpu.yaml")
    (place,) = devices.places(1, config)
    assert devices.KEEP_MEMORY.items() <= place.items()
    asked, kept = pages_asked_for({}), pages_asked_for(place)
    assert kept < asked / 5, (asked, kept)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not devices.KEEP_MEMORY.keys() & devices.places(1, config)[0].keys()


# --- a whole study


def command(folder, *words):
    """A study command as a person starts it, in `folder`."""
    words = [warm.python(), "-m", "rd3_utils", "study", *map(str, words)]
    return subprocess.Popen(words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"})  # fmt: skip


def starts(folder):
    """{log: how often its command was started} of all studies in `folder`."""
    return {log.name: log.read_text().count("$ ") for log in folder.glob("results/study/*/logs/*.log")}


def kept(folder):
    """{path: Run without its seconds and the commit of the code} of all Runs in `folder`."""
    found = {}
    for path in sorted(folder.glob("results/digits/**/seed*.json")):
        run = json.loads(path.read_text())
        del run["seconds"], run["environment"]["git"]
        found[str(path.relative_to(folder))] = run
    return found


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder in which studies/digits-smoke.toml ran with two workers, and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    out, err = (process := command(folder, SMOKE, "--workers", "2")).communicate(timeout=500)
    assert process.returncode == 0, out + err
    return folder, out


def test_a_study_trains_every_cell_where_its_plan_said(smoke):
    folder, out = smoke
    plan = planning.StudyPlan(studies.load(SMOKE), folder / "results")
    placed = plan.place(False)
    assert len(placed) == 8 and all(one.path.is_file() and one.run.arm == one.arm for one in placed)
    assert len(kept(folder)) == 8 and set(starts(folder).values()) == {1} and len(starts(folder)) == 10
    assert len(list(folder.glob("soft_labels/*/*/index.json"))) == 2
    assert not list(folder.rglob("*.claim")) and not list(folder.glob("results/digits/**/*.md"))
    assert out.count(" %, ") == 8 and "[10/10]" in out and "report results/study/digits-smoke/report.md" in out


def test_a_cell_is_the_run_of_the_command_by_hand(smoke, tmp_path):
    folder, _ = smoke
    words = "--distilled", "random:ipc=1,seed=0", "--arms", "random-hard", "--draws", "1", "--seeds", "1"
    assert run_script(tmp_path, "train_student", "--protocol", "hard-label-v1", "--set", "training.epochs=60", *words).code == 0
    (path, run), *others = kept(tmp_path).items()
    theirs = kept(folder)[path]
    assert not others and {k: v for k, v in run.items() if k not in ("environment", "history")}.items() <= theirs.items()
    assert [e["loss"] for e in run["history"]] == pytest.approx([e["loss"] for e in theirs["history"]], rel=1e-2)


def test_the_same_study_again_does_nothing(smoke):
    folder, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/digits/**/*")}
    report = (folder / "results/study/digits-smoke/report.json").read_bytes()
    done = run_script(folder, "rd3_utils", "study", SMOKE, "--workers", "2")
    assert done.code == 0 and "8 are there, 0 are missing" in done.out and set(starts(folder).values()) == {1}
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("results/digits/**/*")}
    assert report == (folder / "results/study/digits-smoke/report.json").read_bytes()


def test_the_report_says_what_the_run_files_say(smoke):
    folder, _ = smoke
    report = json.loads((folder / "results/study/digits-smoke/report.json").read_text())
    text = (folder / "results/study/digits-smoke/report.md").read_text()
    tops, sets = {}, {}
    for run in kept(folder).values():
        method = "dm" if run["arm"].startswith("distilled") else "random"
        key = method, f"{run['protocol']['name']}, training.epochs=60"
        tops.setdefault(key, []).append(run["top1"])
        sets.setdefault(key, []).append(run["images"]["fingerprint"])
    assert len(tops) == 4 and {len(values) for values in tops.values()} == {2}
    for cell in report["cells"]:
        values = tops[cell["method"], cell["protocol"]]
        assert (cell["mean"], cell["n"], cell["missing"]) == (pytest.approx(statistics.fmean(values)), 2, 0)
        assert cell["std"] == pytest.approx(statistics.stdev(values))
        assert f"{100 * cell['mean']:.2f} +- {100 * cell['std']:.2f} (n = 2)" in text
    (found,) = report["decomposition"]
    ordered = {(m, p): TableCell(tops[m, p], sets[m, p]) for m in found["methods"] for p in found["protocols"]}
    assert found["parts"] == ranking.decomposition(ordered)["parts"]
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    images = json.loads((folder / "results/study/digits-smoke/images.json").read_text())
    mine = {e["method"]: (e["recognised"], e["sets"]) for e in report["recognised"]}
    assert mine == {"dm": (1.0, 1), "random": (1.0, 1)} and len(report["recognised"]) == 2
    assert images["digits digits-dm-ipc1"]["recognised"] == {report["recognised"][0]["teachers"]: 1.0}
    assert "| digits, 1 image per class | dm | convnet3" in text
    (change,) = report["before_after"][0]["rows"]
    dm = {name.partition(",")[0]: statistics.fmean(values) for (method, name), values in tops.items() if method == "dm"}
    assert change["change"] == pytest.approx(dm["rd3-v1"] - dm["hard-label-v1"])
    soft = next(cell for cell in report["cells"] if (cell["method"], cell["label_bytes"] > 0) == ("dm", True))
    embedded = PROJECT / "rd3_utils/embedded/digits-dm-ipc1"
    assert soft["image_bytes"] == (embedded / "train-00000-of-00001.parquet").stat().st_size
    assert soft["synthesis_seconds"] == json.loads((embedded / "distilled.json").read_text())["seconds"]
    (store,) = folder.glob("soft_labels/digits-dm-ipc1@*/*/index.json")
    assert soft["label_bytes"] == sum(shard["bytes"] for shard in json.loads(store.read_text())["shards"])
    for picture in ("cells", "bytes", "synthesis", "before-after", "decomposition"):
        assert (
            folder / f"results/study/digits-smoke/plots/{picture}.png"
        ).stat().st_size > 1000 and f"({'plots'}/{picture}.png)" in text


def test_a_report_needs_the_runs_only(smoke, tmp_path):
    folder, _ = smoke
    shutil.copytree(folder / "results", tmp_path / "results")
    name = next((tmp_path / "results").glob("digits/**/random-hard/seed1.json"))
    name.unlink()
    done = run_script(tmp_path, "rd3_utils", "study", SMOKE, "--report-only")
    assert done.code == 0 and "7 of 8 cells" in (tmp_path / "results/study/digits-smoke/report.md").read_text()
    assert "1 of 8 cells are missing" in (tmp_path / "results/study/digits-smoke/report.md").read_text()
    plan = run_script(tmp_path, "rd3_utils", "study", SMOKE, "--dry-run").out
    assert "7 are there, 1 are missing" in plan and "seeds 0+ 1 " in plan and "to train: 1 students, about " in plan


def test_a_cell_that_fails_is_told_and_the_others_finish(smoke, tmp_path):
    """A learning rate of 1e38 diverges at once; a set that is not there fails before; cells of the other study are taken up."""
    folder, _ = smoke
    shutil.copytree(folder / "results", tmp_path / "results")
    text = SMOKE.read_text().replace("digits-smoke", "failing").replace('"rd3-v1", "hard-label-v1"]', '"hard-label-v1"]')
    text += '\n[[images]]\nmethod = "gone"\nsource = "./gone"\n'
    for rate in ("1e38", "0.02"):
        text += '\n[[grid]]\nmethods = ["dm"]\nprotocols = ["hard-label-v1"]\nseeds = [0]\n'
        text += f'set = ["training.epochs=2", "training.learning_rate={rate}"]\n'
    (tmp_path / "failing.toml").write_text(text)
    out, err = (process := command(tmp_path, "failing.toml", "--workers", "2")).communicate(timeout=300)
    assert process.returncode == 2 and "error: 3 of 8 cells failed" in err, out + err
    assert "the training diverged." in next(line for line in out.splitlines() if "FAILED" in line and "1e38" in line)
    assert out.count("FAILED  digits gone") == 2 and "no images in gone; put them there" in out
    assert len(kept(tmp_path)) == 9 and not list(tmp_path.rglob("*.claim"))
    assert "5 of 8 cells" in (tmp_path / "results/study/failing/report.md").read_text()


@pytest.mark.slow
def test_a_study_killed_in_the_middle_and_two_commands_then_leave_the_same_runs(smoke, tmp_path):
    """SIGKILL while cells train, then two commands at once on the folder: no student is trained twice, Runs are the same."""
    killed = command(tmp_path, SMOKE, "--workers", "2")
    until(lambda: len(kept(tmp_path)) >= 3, 300)
    killed.kill()
    killed.communicate()
    assert 3 <= len(kept(tmp_path)) < 8
    both = [command(tmp_path, SMOKE, "--workers", "1") for _ in range(2)]
    outs = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert set(starts(tmp_path).values()) == {1} and len(starts(tmp_path)) == 10
    assert kept(tmp_path) == kept(smoke[0]) and not list(tmp_path.rglob("*.claim"))


# --- what a report says


def test_the_error_of_a_change_is_welchs():
    from scipy import stats

    a, b = TableCell([0.5, 0.52, 0.55]), TableCell([0.4, 0.43, 0.41, 0.45])
    t = stats.ttest_ind(a.values, b.values, equal_var=False).statistic
    assert (a.mean - b.mean) / findings.error_of(a, b) == pytest.approx(t)
    assert findings.error_of(TableCell([0.5]), b) is None
    luck = [0.4, 0.44, 0.41, 0.45, 0.3, 0.32]
    drawn = TableCell(luck, [0, 0, 1, 1, 2, 2])
    t = stats.ttest_ind(a.values, [0.42, 0.43, 0.31], equal_var=False).statistic
    assert (a.mean - drawn.mean) / findings.error_of(a, drawn) == pytest.approx(t)
    other = TableCell([0.1, 0.2, 0.15, 0.12, 0.03, 0.01], drawn.sets)  # the same draws: by their differences
    t = stats.ttest_rel([0.42, 0.43, 0.31], [0.15, 0.135, 0.02]).statistic
    assert (drawn.mean - other.mean) / findings.error_of(drawn, other) == pytest.approx(t)


def placed_run(one, top1, fingerprint, teachers=()):
    """The Placed with a Run of these images, as far as a report reads it."""
    images = {"fingerprint": hashlib.sha256(fingerprint.encode()).hexdigest()}
    images = drawn(one.cell.draw) if one.cell.draw is not None else images
    own = {"name": one.protocol.name, "digest": one.protocol.digest}
    run = made(top1=top1, seed=one.cell.seed, arm=one.arm, teachers=list(teachers), protocol=own, images=images)
    return dataclasses.replace(one, run=run)


def test_draws_of_random_images_are_drawn_again_whole_and_must_be_the_same_under_every_protocol(small, tmp_path):
    study = small()
    placed = [one for one in planning.StudyPlan(study, tmp_path).place(False) if one.cell.ipc == 1 and not one.cell.set]
    placed = [placed_run(one, 0.3 + 0.01 * i, f"{one.cell.method}{one.cell.draw}") for i, one in enumerate(placed)]
    mine = {}
    for one in placed:
        mine.setdefault(findings.key_of(one)[3:], []).append(one.run)
    assert {len(runs) for (method, _), runs in mine.items() if method == "random"} == {6}
    units = {key: len(findings.cell_of(runs).units) for key, runs in mine.items()}
    assert units == {(m, p): 3 if m == "random" else 2 for m in ("dm", "random") for p in ("rd3-v1", "hard-label-v1")}
    assert not [note for note in findings.notes(placed, None) if "draws" in note]
    fewer = [one for one in placed if (one.cell.draw, one.cell.protocol) != (2, "rd3-v1")]
    assert [note for note in findings.notes(fewer, None) if note.startswith("random on digits at ipc 1, convnet3, has not the")]


def test_runs_of_another_teacher_than_the_study_names_are_told(small, tmp_path):
    study = small()
    placed = planning.StudyPlan(study, tmp_path).place(False)
    one, other = (one for one in placed if one.arm == "distilled-soft" and one.cell.ipc == 1 and not one.cell.set)
    [default] = [planning.recorded_teacher(name, "digits") for name in one.teachers]

    def notes(*sources):
        teachers = [[{**TEACHER, "source": source, "sha256": sha256 * 64}] for source, sha256 in sources]
        placed = [placed_run(at, 0.5, "f", of) for at, of in zip((one, other), teachers)]
        return [note for note in findings.notes(placed, None) if "learned from" in note]

    assert not notes((default, "a"), (default, "a")) and not notes((default, "a"), ("local-dir:its-former-name", "a"))
    [note] = notes((default, "a"), ("torchvision:resnet18", "b"))
    assert note.startswith(f"1 Runs of rd3-v1 on digits learned from torchvision:resnet18; the study names {default}.")


@pytest.mark.parametrize("change", ['unified = "rd3_v1"', '[own]\ndm = "rd3_v1"', '[teachers.digits]\nrd3_v1 = ["default"]'])
def test_a_misspelt_protocol_is_named(small, change):
    with pytest.raises(UserError, match="rd3_v1.*rd3-v1"):
        small(SMALL.replace("\n[[images]]", f"{change}\n\n[[images]]", 1))


def test_students_and_protocols_are_compared_within_a_place_only():
    grid = {}
    for ipc in (1, 10):
        for s, student in enumerate(("one", "other")):
            for m, method in enumerate("abc"):
                for name in ("p", "q"):
                    top1 = 0.1 * (m if s == 0 else -m) + (0.3 if name == "q" else 0.2)
                    grid["digits", ipc, student, method, name] = TableCell([top1])
    assert [(e["ipc"], e["student"], e["tau"]) for e in findings.tau_protocols(grid)] == [
        (1, "one", 1), (1, "other", 1), (10, "one", 1), (10, "other", 1)]  # fmt: skip
    assert [(e["ipc"], e["protocol"], e["pair"], e["tau"]) for e in findings.tau_students(grid)] == [
        (ipc, name, ["one", "other"], -1) for ipc in (1, 10) for name in "pq"]  # fmt: skip
    assert len(findings.decompositions(grid)) == 4 and len(findings.spreads(grid)) == 8


def test_an_ablation_is_told_against_its_base(small):
    study = small()
    place = "digits", 10, "convnet3", "dm"
    cells = {
        (*place, "rd3-v1"): TableCell([0.5, 0.6]),
        (*place, "rd3-v1, training.zeta=1.0"): TableCell([0.7, 0.72]),
        (*place, "hard-label-v1"): TableCell([0.1]),
    }
    (found,) = findings.ablations(study, cells)
    assert [row["what"] for row in found["rows"]] == ["base", "training.zeta=1.0"]
    assert found["rows"][1]["change"] == pytest.approx(0.16) and found["rows"][0]["change"] is None


def test_the_report_says_in_a_sentence_how_much_is_recipe():
    """Two places by hand: m_ij = a_i + b_j with a, b in {0, d}, so that a part is d^2 / 4."""

    def table(method, protocol):
        cells = {(i, j): TableCell([method * i + protocol * j] * 2) for i in range(2) for j in range(2)}
        return ranking.decomposition(cells)

    said = study_report.claim([table(0.1, 0.3), table(0.1, 0.1)])
    assert said == "The protocol makes 50 to 90 % of the variance of accuracies, the method 10 to 50 %, in 2 places."
    assert study_report.claim([table(0, 0.1)]).startswith(
        "The protocol makes 100 % of the variance of accuracies, the method 0 %."
    )
    assert study_report.claim([table(0, 0)]) == "All accuracies are the same."


def test_a_table_with_single_students_says_that_its_intervals_are_too_narrow():
    place = {"benchmark": "digits", "ipc": 1, "student": "convnet3"}
    for tops, said in (([0.3], 1), ([0.3, 0.4], 0)):
        cells = {(i, j): TableCell([0.1 * i, 0.2 * j]) for i in range(2) for j in range(2)} | {(0, 0): TableCell(tops)}
        text = "\n".join(study_report.decomposition_section({"decomposition": [{**place, **ranking.decomposition(cells)}]}))
        assert text.count("cells have 1 to 2 students") == said


def test_a_method_has_the_same_colour_in_every_picture_and_ablations_are_drawn(small, tmp_path, monkeypatch):
    """What is drawn, from a report of two methods of which only the second has an own protocol."""
    seen = {}
    for name in ("draw_cost", "draw_slopes"):
        monkeypatch.setattr(figures, name, lambda *given, name=name: seen.setdefault(name, given[1]))
    place = {"benchmark": "digits", "ipc": 1, "student": "convnet3"}
    cell = {**place, "grid": True, "protocol": "p", "mean": 0.5, "std": None, "image_bytes": 1.0, "label_bytes": 0.0}
    cells = [{**cell, "method": name, "synthesis_seconds": seconds} for name, seconds in (("random", 0.0), ("dm", 60.0))]
    rows = [{"what": "base", "mean": 0.5, "std": None, "n": 1, "change": None, "error": None},
            {"what": "training.zeta=1.0", "mean": 0.6, "std": None, "n": 1, "change": 0.1, "error": None}]  # fmt: skip
    report = {"cells": cells, "before_after": [{**place, "rows": []}], "decomposition": [],
              "ablation": [{**place, "method": "dm", "protocol": "p", "rows": rows}]}  # fmt: skip
    pictures = figures.draw_figures(tmp_path, report)
    assert seen["draw_cost"] == seen["draw_slopes"] and list(seen["draw_cost"]) == ["random", "dm"]
    assert [file for shown in pictures.values() for file, _ in shown] == [
        "cells.png", "bytes.png", "synthesis.png", "before-after.png", "ablation.png"]  # fmt: skip
    assert (tmp_path / "ablation.png").stat().st_size > 1000
