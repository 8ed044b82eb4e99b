"""Experiment trackers get every student's curve and recipe: through accelerate, and in the files of the libraries."""

import importlib.util
import json
import os
import sqlite3
import subprocess

import pytest
import warm
from accelerate.tracking import GeneralTracker
from conftest import PROJECT

from rd3_utils import tracking
from rd3_utils.learning import fitting, training

SHORT = "--runs-only", "--student", "convnet1", "--set", "training.epochs=3"
TWO = *SHORT, "--arms", "distilled-hard,random-hard", "--draws", "1"
KNOBS = "training.epochs", "training.learning_rate", "loss.name", "views.mix"


class Recorder(GeneralTracker):
    """A tracker that, as wandb does, drops what is logged for a step before the last one."""

    name, requires_logging_directory, tracker = "recorder", False, None

    def __init__(self):
        super().__init__()
        self.runs = []

    def start(self):
        self.runs.append({"config": {}, "steps": [], "values": [], "ended": False})

    def store_init_configuration(self, values):
        self.runs[-1]["config"] = values

    def log(self, values, step=None, **more):
        run = self.runs[-1]
        assert not run["ended"]
        if step >= max(run["steps"], default=0):
            run["steps"].append(step)
            run["values"].append(values)

    def finish(self):
        self.runs[-1]["ended"] = True


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(tracking, "arguments", lambda log_with, folder: {"log_with": found})
    return found


def runs_of(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("results/**/seed*.json"))]


def test_every_student_has_a_run_with_its_recipe_every_epoch_and_its_score(script, tmp_path, recorder):
    done = script("train_student", *TWO, "--seeds", "0,1")
    assert done.code == 0, done.err
    written = {(run["arm"], run["seed"]): run for run in runs_of(tmp_path)}
    assert len(recorder.runs) == len(written) == 4
    for one in recorder.runs:
        run, config = written.pop((one["config"]["arm"], one["config"]["seed"])), one["config"]
        assert one["ended"] and one["steps"] == [0, 1, 2, 3] and one["values"][:3] == run["history"]
        assert one["values"][3]["top1"] == run["top1"]
        assert config["recipe"] == run["recipe"] and config["images"] == run["images"] and config["labels"] == run["labels"]
        assert config["protocol"]["digest"] == run["protocol"]["digest"] and "knobs" not in config["protocol"]


def test_a_resumed_student_has_its_whole_curve(script, tmp_path, recorder, monkeypatch):

    class Killed(Exception):
        pass

    honest = training.save_checkpoint

    def killed(path, learner, labels, epoch, *rest):
        honest(path, learner, labels, epoch, *rest)
        if epoch == 2:
            raise Killed

    one = "--runs-only", "--arms", "distilled-hard", "--student", "convnet1", "--set", "training.epochs=4"
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(Killed):
        script("train_student", *one)
    monkeypatch.setattr(training, "save_checkpoint", honest)
    assert script("train_student", *one).code == 0
    (run,) = runs_of(tmp_path)
    assert recorder.runs[-1]["steps"] == [0, 1, 2, 3, 4] and recorder.runs[-1]["values"][:4] == run["history"]


def test_a_rate_that_was_searched_is_the_one_in_the_config(script, tmp_path, recorder):
    grid = "--distilled", "random:ipc=5", "--set", "training.learning_rates=[0.01, 0.001]"
    assert script("train_student", *TWO, *grid, "--arms", "distilled-hard").code == 0
    (run,), (one,) = runs_of(tmp_path), recorder.runs
    rate = one["config"]["recipe"]["training"]["learning_rate"]
    assert rate == run["learning_rate_search"]["learning_rate"] == run["recipe"]["training"]["learning_rate"]


def test_nothing_is_tracked_where_nothing_is_trained(script, tmp_path, recorder):
    for _ in range(2):
        assert script("train_student", *TWO, "--arms", "distilled-hard").code == 0
    assert len(recorder.runs) == 1


def test_a_flat_table_names_every_value_by_its_path():
    nested = {"a": 1, "b": {"c": {"d": "x"}, "e": [1, 2.5]}, "f": {}}
    assert tracking.flat_config(nested) == {"a": 1, "b.c.d": "x", "b.e": "[1, 2.5]"}


# --- the libraries themselves, offline


def tracked(tmp_path, library, **variables):
    """Two arms x two seeds tracked by `library`; the Runs as {name of the run: Run}."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install {library}")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **variables}
    command = [warm.python(), str(PROJECT / "train_student.py"), *TWO, "--seeds", "0,1", "--log-with", library]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "step" not in "".join(line for line in done.stderr.splitlines() if "WARNING" in line), done.stderr
    paths = sorted((tmp_path / "results").glob("**/seed*.json"))
    found = {str(p.relative_to(tmp_path / "results").with_suffix("")): json.loads(p.read_text()) for p in paths}
    assert len(found) == 4
    return found


def right(curves, configs, wanted):
    """Whether curves {name: {key: [values]}} and configs {name: {"a.b": value}} are those of the Runs `wanted`."""
    assert set(curves) == set(configs) == set(wanted)
    for name, run in wanted.items():
        for key in ("loss", "learning_rate"):
            assert curves[name][key] == pytest.approx([entry[key] for entry in run["history"]], rel=1e-6)
        assert curves[name]["top1"] == pytest.approx([run["top1"]])
        recipe = tracking.flat_config(run["recipe"])
        for key in KNOBS:
            assert configs[name][f"recipe.{key}"] == recipe[key]
        assert configs[name]["protocol.digest"] == run["protocol"]["digest"] and configs[name]["seed"] == run["seed"]


def records(data):
    """The records in the bytes of a .wandb file: LevelDB's log after 7 bytes.

    In blocks of 32 kB, each part of a record behind checksum (4 bytes), length (2) and kind (1 whole, 2 first, 4 last).
    """
    at, parts = 7, []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little of the block for another head
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


@pytest.mark.slow
def test_wandb_offline_keeps_every_curve_and_config(tmp_path):
    wanted = tracked(tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    from wandb.proto import wandb_internal_pb2

    curves, configs = {}, {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        curve, config, name = {}, {}, None
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            for item in (*record.run.config.update, *record.config.update):
                config["".join(item.nested_key) or item.key] = json.loads(item.value_json)
            for item in record.history.item:
                curve.setdefault(item.key or item.nested_key[0], []).append(json.loads(item.value_json))
        curves[name], configs[name] = curve, tracking.flat_config(config)
    right(curves, configs, wanted)


@pytest.mark.slow
def test_trackio_keeps_every_curve_and_config(tmp_path):
    wanted = tracked(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "kept"))
    (file,) = tmp_path.glob("kept/*.db")
    curves, configs = {}, {}
    with sqlite3.connect(file) as database:
        for name, values in database.execute("select run_name, metrics from metrics order by run_name, step"):
            for key, value in json.loads(values).items():
                curves.setdefault(name, {}).setdefault(key, []).append(value)
        for name, config in database.execute("select run_name, config from configs"):
            configs[name] = tracking.flat_config(json.loads(config))
    right(curves, configs, wanted)


@pytest.mark.slow
def test_tensorboard_keeps_every_curve_and_config(tmp_path):
    wanted = tracked(tmp_path, "tensorboard")
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves, configs = {}, {}
    for file in tmp_path.glob("results/rd3/**/hparams.yml"):
        folder = file.parents[1]
        events = EventAccumulator(str(folder)).Reload()
        name = str(folder.relative_to(tmp_path / "results" / "rd3"))
        curves[name] = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        configs[name] = yaml.safe_load(file.read_text())
    right(curves, configs, wanted)
