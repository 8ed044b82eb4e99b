"""python -m rd3_utils study STUDY.toml: image sets x protocols x students x seeds; plan, run what is missing, report."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rd3_utils import files
from rd3_utils.cli.options import add_data_dirs, positive, seed, workers
from rd3_utils.data import embedded
from rd3_utils.errors import UserError


def add_options(parser: ArgumentParser) -> None:
    """Options of `study`."""
    parser.add_argument("study", metavar="STUDY.toml", help="a file, or one of the project's such as digits-smoke.toml")
    add_data_dirs(parser)
    parser.add_argument("--out", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    parser.add_argument("--soft-labels", metavar="DIR", default="soft_labels", help="folder of stores (default: %(default)s)")
    parser.add_argument("--workers", type=workers, default=1, help="cells at a time, each on a GPU of its own where there are "
                       "GPUs (default: %(default)s)")  # fmt: skip
    parser.add_argument("--config", metavar="YAML", help="of accelerate (default: single_gpu_bf16 with a GPU, else cpu)")
    parser.add_argument("--index", metavar="I", type=seed, help="do only part I, from 0, of --count parts (default: the task "
                       "of a Slurm job array, if this is one)")  # fmt: skip
    parser.add_argument("--count", metavar="N", type=positive, help="number of parts")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and stop")
    parser.add_argument("--report-only", action="store_true", help="write the report of what is there, and stop")


def or_carried(text: str, folder: str, installed: str) -> Path:
    """The path `text`, or the file of that name that comes with the project where nothing lies there."""
    path, own = Path(text), embedded.carried(folder, installed, Path(text).name)
    return own if not path.exists() and path.name == text and own.is_file() else path


def run(options: Namespace) -> None:
    """Show the plan of a study, run what is missing, write its report."""
    import torch

    from rd3_utils.data import tables
    from rd3_utils.studies import devices, findings, planning, progress
    from rd3_utils.studies import report as study_report
    from rd3_utils.studies import study as studies

    if (options.index is None) != (options.count is None):
        raise UserError("--index I and --count N go together.")
    index, count = (options.index, options.count) if options.count else progress.array_task() or (0, 1)
    if index >= count:
        raise UserError(f"--index {index} of --count {count}: parts are numbered from 0 to {count - 1}.")
    name = "single_gpu_bf16.yaml" if torch.cuda.is_available() else "cpu.yaml"
    config_path = or_carried(options.config or name, "accelerate_configs", "accelerate_configs")
    config = devices.read_config(config_path)
    read = studies.load(or_carried(options.study, "studies", "study_files"))
    where = tables.data_dirs(options.data_dir, read.benchmarks), devices.precision_of(config), options.soft_labels
    plan = planning.StudyPlan(read, options.out, *where, devices.device_of(config))
    plan.facts = study_report.facts(plan.folder)
    mine, failed = set(planning.part_of_array(plan.asked, index, count)), 0  # of all: sets may come while others train
    chosen = [cell for cell in plan.cells if cell in mine]
    if not options.report_only:
        progress.show_plan(plan, plan.place(False, chosen), config_path.name)
        if options.dry_run:
            return
        files.try_folder(plan.folder)
        try:
            failed = progress.conduct(plan, chosen, options.workers, config, config_path)
        except KeyboardInterrupt:
            print("stopped: what is finished is kept, the same command goes on.", file=sys.stderr, flush=True)
            sys.exit(130)
    placed = plan.place(False)
    if options.report_only and not any(one.run for one in placed):
        raise UserError(
            f"no cell of {plan.study.name} at {plan.precision} ({config_path.name}) is in {options.out}, nothing to report; "
            "train some, or give the --out and --config of those that are."
        )
    facts = findings.image_facts(placed, study_report.facts(plan.folder), options.soft_labels)
    text = study_report.write_report(
        plan.folder, plan.study, findings.findings(plan.study, placed, facts, plan.left_out), facts
    )
    print(f"report {text}")
    if failed:
        raise UserError(f"{failed} of {len(chosen)} cells failed; the same command tries them again.")
