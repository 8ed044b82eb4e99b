"""The command of a Run, run again in a folder of its own that is gone afterwards: Run -> TrainOptions -> a process -> Run.

Everything in the command was read by a strict grammar first: names of ours, knobs, repos at their commit. A path that a Run
states is never opened: whoever has it gives it (--distilled, --teacher).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rd3_utils import command_lines, files, subprocesses
from rd3_utils.data import embedded, selections, sources
from rd3_utils.errors import UserError
from rd3_utils.learning import teachers
from rd3_utils.options import TrainOptions
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.benchmark import Benchmark
from rd3_utils.protocols.knobs import SECTIONS, TAUGHT, all_knobs
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run, RunTeacher
from rd3_utils.verification.at_hand import AtHand, NotAtHand

LAUNCHES = {  # (on a CPU, alone): the config of accelerate; processes and precision are given beside it
    (True, True): "cpu.yaml",
    (True, False): "cpu_2_processes.yaml",
    (False, True): "single_gpu_bf16.yaml",
    (False, False): "ddp_bf16.yaml",
}
OF_A_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of the one around this
PROSE = ("title", "description", "published_selection")


@dataclass(frozen=True)
class Launch:
    """How a Run is launched here: as it says, as far as this machine has it."""

    on_cpu: bool
    processes: int
    threads: int
    precision: str

    @property
    def words(self) -> list[str]:
        """What starts a script, as a list of words."""
        name = LAUNCHES[self.on_cpu, self.processes == 1]
        config = embedded.carried("accelerate_configs", "accelerate_configs", name)
        given = ["--config_file", str(config), "--num_processes", str(self.processes)]
        precision = command_lines.in_precision(self.precision)
        return [sys.executable, "-m", "accelerate.commands.launch", *given, *precision]

    @property
    def environment(self) -> dict[str, str]:
        """All variables of its processes."""
        kept = {name: value for name, value in os.environ.items() if name not in OF_A_LAUNCH}
        device = {"ACCELERATE_USE_CPU": "true"} if self.on_cpu else {}
        return kept | {"OMP_NUM_THREADS": str(self.threads)} | device


def launch_of(run: Run) -> Launch:
    """The Launch nearest to that of `run`; NotAtHand where its precision does not exist here."""
    stated, cores = run.environment, subprocesses.cores()
    on_cpu = " x cuda (" not in stated.devices or not torch.cuda.is_available()
    if stated.precision not in (("fp32", "bf16") if on_cpu else ("fp32", "bf16", "fp16")):
        raise NotAtHand(f"it was trained in {stated.precision}, which needs a GPU that has it.")
    most = cores if on_cpu else torch.cuda.device_count()
    return Launch(on_cpu, min(stated.processes, most), min(stated.threads, cores), stated.precision)


def options_of(run: Run, bench: Benchmark, at_hand: AtHand, folder: Path) -> TrainOptions:
    """What train_student.py is asked to train `run` again below `folder`; NotAtHand where something cannot be had here."""
    store = stored_labels(run)
    return TrainOptions(
        benchmark=run.benchmark,
        protocol=protocol_source(run, folder),
        distilled=image_source(run, at_hand),
        teacher=teacher_sources(run, bench, at_hand) if run.labels.of_teachers and not store else (),
        views_seed=run.views_seed if run.views == "shared" else run.views,
        set=tuple(f"{key}={json.dumps(value)}" for key, value in sorted(run.protocol.overrides.items())),
        soft_labels=store or str(folder / "soft_labels"),
        student=run.student,
        arms=run.arm,
        seeds=(run.seed,),
        draw=run.draw if run.arm.startswith("random-") else None,
        data_dir=at_hand.data_dir(run.benchmark),
        out=str(folder / "results"),
        workers=at_hand.options.workers,
        runs_only=True,
        monitor_test=run.monitored_test,
        allow_test_images=bool(run.images.checks and run.images.checks.test_images),
        online=run.labels.online,
        forward_batch=run.labels.forward_batch or TrainOptions.forward_batch,
        label_dtype=run.labels.label_dtype or TrainOptions.label_dtype,
    )


def image_source(run: Run, at_hand: AtHand) -> str:
    """The SOURCE of the images of `run`: a selection, an embedded set, a repo at its commit, or the set that was given."""
    origin = run.images.origin
    if origin.is_full or origin.draw is not None:
        return origin.text
    if at_hand.options.distilled:
        return at_hand.options.distilled
    if origin.repo:
        return replace(origin, revision=run.images.commit).text
    if run.images.source in embedded.image_sets():
        return run.images.source
    raise NotAtHand(f"its images are a local set, {run.images.source!r}. Give --distilled PATH with that set.")


def check_same_images(run: Run, source: str, bench: Benchmark, at_hand: AtHand) -> None:
    """NotAtHand unless the images at `source` are those of `run`, before a student is trained on others."""
    if source == sources.FULL.text:
        return  # the training says what it was
    try:
        images = selections.image_set(source, bench, lambda: at_hand.train(bench.name), at_hand.options.workers)
    except UserError as error:
        raise NotAtHand(str(error)) from error
    if images.fingerprint != run.images.fingerprint:
        raise NotAtHand(
            f"the images at {source} have fingerprint {images.fingerprint[:8]}, those of the Run "
            f"{run.images.fingerprint[:8]}. Give --distilled PATH with that set."
        )


def teacher_sources(run: Run, bench: Benchmark, at_hand: AtHand) -> tuple[str, ...]:
    """The teachers that label again what `run` was told; NotAtHand where labels or teachers are only their maker's."""
    if run.labels.kind not in TAUGHT:
        raise NotAtHand(
            "its labels were made by another tool and lie in a local store; a Run of a store on the Hub can be repeated."
        )
    return at_hand.options.teacher or tuple(teacher_source(teacher, bench) for teacher in run.teachers)


def teacher_source(teacher: RunTeacher, bench: Benchmark) -> str:
    """How --teacher names the teacher that a Run states; NotAtHand for a folder of somebody else."""
    if teachers.is_default(teacher, bench):
        return "default"
    with contextlib.suppress(UserError):
        source = sources.parse_network(teacher.source)
        if source.kind == "hf-hub" and teacher.commit:
            return replace(source, revision=teacher.commit).text
        if source.kind in ("timm", "torchvision"):
            return source.text
    raise NotAtHand(f"its teacher is a local one, {teacher.source!r}. Give --teacher SOURCE with that network.")


def stored_labels(run: Run) -> str | None:
    """OWNER/REPO@COMMIT:PATH of the labels that a Run read from the Hub, else None."""
    origin = sources.recorded(run.labels.source, run.labels.commit) if run.labels.source else None
    return replace(origin, revision=run.labels.commit).text if origin and origin.repo else None


def protocol_source(run: Run, folder: Path) -> str:
    """The released name of the protocol of `run`, or a TOML file in `folder` written from the knobs that the Run states."""
    stated = run.protocol
    if stated.name in protocols.names():
        return stated.name
    path = folder / f"{stated.name}.toml"
    files.write_whole(path, protocol_file(stated.name, stated.knobs))
    if protocols.load(path).override([f"{k}={json.dumps(v)}" for k, v in stated.overrides.items()]).digest != stated.digest:
        raise NotAtHand(f"protocol {stated.name} is none of ours, and its knobs written as a file have another digest.")
    return str(path)


def protocol_file(name: str, knobs: dict) -> str:
    """The TOML of a protocol with these knobs; what nobody reads of it is left to say."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": name, **dict.fromkeys(PROSE, "of a Run")}.items()]
    arms = {f"arms.{labels}": changes for labels, changes in knobs["arms"].items()}
    for title, table in {**{section: knobs[section] for section in SECTIONS}, **arms}.items():
        lines += [f"[{title}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items())]
    for rule in knobs["rules"]:
        lines += ["[[rules]]", *(f"{part} = {inline_table(rule[part])}" for part in ("when", "set"))]
    return "\n".join([*lines, "[sources]", *(f'"{key}" = "a Run"' for key in all_knobs())]) + "\n"


def inline_table(table: dict) -> str:
    """A TOML table on one line; numbers, texts and lists of them are written as JSON has them."""
    return "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()) + " }"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder that is gone when the block ends, also when it is interrupted, told to end or its terminal closes."""
    with (
        subprocesses.interruptible(signal.SIGHUP),
        tempfile.TemporaryDirectory(prefix="rd3-retrain-", ignore_cleanup_errors=True) as name,
    ):
        yield Path(name)


def trained_again(launch: Launch, options: TrainOptions, folder: Path) -> Run:
    """The Run that the command of `options` makes; NotAtHand with its last words where it makes none."""
    script = embedded.PACKAGE.parent / command_lines.SCRIPTS[TrainOptions]
    command = [*launch.words, str(script), *command_lines.option_words(options)]
    log = folder / "log"
    started: list[subprocess.Popen] = []
    with open(log, "wb") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        try:
            with subprocesses.deferred(signal.SIGHUP):
                started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                                env=launch.environment, start_new_session=True))  # fmt: skip
            code = started[0].wait()
        finally:
            subprocesses.stop_processes(started)
    kept, left_out = Results(options.out).runs_of(options.benchmark)
    if code or len(kept) != 1:
        said = subprocesses.last_line(log) or next(iter(left_out), f"exit code {code}")
        raise NotAtHand(f"its command ended without a Run: {said[:300]}")
    return kept[0][1]
