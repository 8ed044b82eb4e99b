"""How a study proceeds: it shows its plan, makes image sets that are missing, then labels and students, a line for each."""

import os
import time
from pathlib import Path

from accelerate.commands.config.config_args import ClusterConfig

from rd3_utils import subprocesses
from rd3_utils.errors import UserError
from rd3_utils.scoring import runs as run_files
from rd3_utils.scoring.report import percent
from rd3_utils.studies import commands, devices, planning
from rd3_utils.studies import jobs as work
from rd3_utils.studies.planning import Placed, StudyPlan
from rd3_utils.studies.study import Cell
from rd3_utils.units import duration


def show_plan(plan: StudyPlan, placed: list[Placed], config_name: str) -> None:
    """Print every cell of the plan, a line per set, protocol and student, with what is there, missing and its cost."""
    groups: dict[tuple[str, str, str, str], list[Placed]] = {}
    for one in placed:
        groups.setdefault((one.cell.benchmark, one.cell.images_name, one.cell.variant, one.cell.student), []).append(one)
    there, known, unknown = sum(one.run is not None for one in placed), 0.0, 0
    print(f"{plan.study.title}\n{len(placed)} cells in {len(groups)} groups, {plan.precision} on {plan.device} "
          f"({config_name}): {there} are there, {len(placed) - there} are missing\n")  # fmt: skip
    width = max((len(f"{b} {images}") for b, images, *_ in groups), default=0)
    wide, broad = (max((len(group[k]) for group in groups), default=0) for k in (2, 3))
    for (benchmark, images, variant, student), mine in groups.items():
        lacking = [one for one in mine if one.run is None]
        seconds = [plan.seconds(one) for one in lacking]
        unknown += sum(s is None for s in seconds)
        known += sum(s or 0 for s in seconds)
        seeds = " ".join(f"{one.cell.seed}{'' if one.run is None else '+'}" for one in mine)
        cost = duration(sum(s or 0 for s in seconds)) if lacking and None not in seconds else "?" if lacking else ""
        name = "" if mine[0].known.identity else "  (images: to be made)" if mine[0].cell.make else "  (images: by name)"
        print(f"  {f'{benchmark} {images}':{width}}  {variant:{wide}}  {student:{broad}}  seeds {seeds}  {cost}{name}")
    for method, sources in plan.left_out.items():
        print(f"  left out: {method}, for {sources[0]} is not there"
              f"{f', nor are {len(sources) - 1} others' if len(sources) > 1 else ''}")  # fmt: skip
    print("\n+: is there. By name: a plan does not read these images; Runs of a set of that name count as there. Cost: median "
          f"time per image of the {planning.NEAR} kept Runs of the same student and device whose images x epochs are nearest; "
          "?: there is none. Starting up, making images and labels are not counted.")  # fmt: skip
    costs = ([f"about {duration(known)} by one worker"] if known else []) + ([f"{unknown} of unknown cost"] if unknown else [])
    print(", ".join([f"to train: {len(placed) - there} students", *costs]), flush=True)


def conduct(plan: StudyPlan, chosen: list[Cell], workers: int, config: ClusterConfig, path_of_config: Path | str) -> int:
    """Make and train what `chosen` cells lack; how many failed. Prints a line per job that ends.

    KeyboardInterrupt, also on SIGTERM, once the commands that ran are ended; what is finished is kept.
    """
    environments, lock = devices.places(workers, config), plan.results.study_lock()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with subprocesses.interruptible():
        missing, failed = [one for one in plan.place(False, chosen) if one.run is None], 0
        bad: set[Path] = set()
        to_make = commands.make_jobs(plan, missing)
        if to_make:
            say = Lines(plan, list(to_make.values()), {}, workers)
            work.run(list(to_make.values()), environments, lock, say.finished, say.waiting)
            bad = {folder for folder, job in to_make.items() if job.state == "failed"}
        placed: list[Placed] = []
        for one in missing:
            if one.folder in bad:
                failed += 1
                continue
            try:
                placed += plan.place(True, [one.cell])
            except UserError as error:
                failed += 1
                print(f"FAILED  {one.cell.name}: {error}", flush=True)
        todo, cells = commands.train_jobs(plan, placed, path_of_config, plan.place(False))
        for name in {one.cell.benchmark for one in cells.values()}:
            plan.check_test_split(name)
        say = Lines(plan, todo, cells, workers)
        work.run(todo, environments, lock, say.finished, say.waiting)
        # of commands that were killed, and whose students were finished all the same
        work.clear([*plan.results.claims(), *Path(plan.soft_labels).glob("*/*.claim")], lock)
        return failed + sum(job.state == "failed" for job in cells)


class Lines:
    """What is printed while jobs run: a line for each that ends, with what is left."""

    def __init__(self, plan: StudyPlan, jobs: list[work.Job], cells: dict[work.Job, Placed], workers: int) -> None:
        self.cells, self.workers, self.started = cells, workers, time.time()
        self.left, self.total, self.waited = list(jobs), len(jobs), False
        self.guess = {job: plan.seconds(one) for job, one in cells.items()}
        self.taken: list[float] = []

    def finished(self, job: work.Job) -> None:
        """`job` is done or failed."""
        self.left.remove(job)
        number = f"[{self.total - len(self.left)}/{self.total}]"
        if job.state == "failed":
            print(f"{number} FAILED  {job.name}: {job.error} (log: {job.log})", flush=True)
            return
        result = "done"
        if job in self.cells:
            path = self.cells[job].path
            assert path is not None  # its images were read
            result = f"{percent(run_files.read(path).top1)} %"
        if job.mine:
            self.taken.append(job.seconds)
        took = f", {duration(job.seconds)}" if job.mine else ", by another command"
        elapsed = duration(time.time() - self.started)
        print(f"{number} {job.name}: {result}{took}; {elapsed} in all{self.remaining()}", flush=True)

    def remaining(self) -> str:
        """About how long the rest takes: by estimate, where there is none by the mean so far."""
        if not self.left or not self.taken:
            return ""
        mean = sum(self.taken) / len(self.taken)
        return f", about {duration(sum(self.guess.get(job) or mean for job in self.left) / self.workers)} left"

    def waiting(self, job: work.Job) -> None:
        """Another command works on `job`; said once."""
        if not self.waited:
            says = work.read_claim(job.claim)
            who = f"process {says.get('pid')} on {says.get('host')}"
            print(f"another command ({who}) works on {job.name} and maybe more; what it finishes is taken up. If it is gone, "
                  f"remove {job.claim}", flush=True)  # fmt: skip
        self.waited = True


def array_task() -> tuple[int, int] | None:
    """(index from 0, count) of the task of a Slurm job array that this is, or None; UserError for an array with gaps."""
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return None
    defaults = {"MIN": 0, "COUNT": 1, "STEP": 1}
    first, count, step = (int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", value)) for name, value in defaults.items())
    at, last = int(os.environ["SLURM_ARRAY_TASK_ID"]), int(os.environ.get("SLURM_ARRAY_TASK_MAX", first + (count - 1) * step))
    if last - first != (count - 1) * step:
        raise UserError(
            f"a job array of {count} tasks from {first} to {last} has gaps, so task {at} could be any part; say "
            "--index $SLURM_ARRAY_TASK_ID and --count N, the number of parts."
        )
    return (at - first) // step, count
