"""python -m rd3_utils COMMAND: what there is (list), distilled sets made here (synthesize) or of a released tensor (convert)
and put on the Hub (publish), studies: image sets x protocols x students x seeds (study), what students' features tell about
other benchmarks (transfer), a calculator (score), and a site of Runs (leaderboard).
"""

import sys

from rd3_utils.scoring import calculator

if __name__ == "__main__" and sys.argv[1:2] == ["score"]:
    sys.exit(calculator.run())  # before torch is imported

import argparse
import shlex
from functools import partial
from pathlib import Path

import torch

from rd3_utils import hub, launch
from rd3_utils.data import catalogue, selections, tables
from rd3_utils.data import convert as conversion
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.learning import losses, recovery, students, synthesis
from rd3_utils.options import add_how, positive, push_target, seed
from rd3_utils.protocols import benchmark, protocol
from rd3_utils.publishing import dataset_repo, leaderboard, study_report, transfer_report
from rd3_utils.scoring import findings, progress, transfer
from rd3_utils.scoring import study as studies


def add_data_dirs(command):
    """--data-dir of a command for several benchmarks."""
    command.add_argument("--data-dir", action="append", default=[], metavar="[NAME=]DIR", help="read a benchmark's real data "
                         "from here; repeatable")  # fmt: skip


def parse():
    parser = argparse.ArgumentParser(prog="python -m rd3_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="benchmarks, protocols, image sets, students and losses, one line each")
    methods = commands.add_parser("synthesize", help="make a distilled image set").add_subparsers(
        dest="method", required=True, metavar="METHOD"
    )
    for name, method in synthesis.METHODS.items():
        make = methods.add_parser(name, help=method.__doc__.partition(":")[0])
        make.add_argument("--benchmark", default="digits")
        make.add_argument("--ipc", type=positive, required=True, help="images per class")
        make.add_argument("--out", metavar="DIR", required=True, help="new folder; its name is the set's")
        make.add_argument("--seed", type=seed, default=0)
        make.add_argument("--data-dir", metavar="DIR", help="read the benchmark's real data from here")
        for option, arguments in SETTINGS[name].items():
            make.add_argument(option, **arguments)
    convert = commands.add_parser("convert", help="make an image set of images_best.pt, as MTT and DATM release it")
    convert.add_argument("source", metavar="SOURCE.pt", help="float tensor [N, 3, S, S]; labels_best.pt beside it is read, too")
    convert.add_argument("out", metavar="OUT_DIR", help="new folder; its name is the set's")
    convert.add_argument("--benchmark", required=True)
    convert.add_argument("--method", default="not stated", help="what to record as its method, such as datm")
    convert.add_argument("--mean", type=float, nargs=3, help="of the normalisation to undo (default: the benchmark's)")
    convert.add_argument("--std", type=float, nargs=3)
    convert.add_argument("--zca", type=float, default=0.0, metavar="EPS", help="undo ZCA whitening of images in [0, 1] instead")
    convert.add_argument("--most-clipped", type=float, default=conversion.MOST_CLIPPED, metavar="SHARE",
                         help="of values that 8 bits may clip (default: %(default)s)")  # fmt: skip
    convert.add_argument("--data-dir", metavar="DIR", help="read the benchmark's real data from here (for --zca)")
    publish = commands.add_parser("publish", help="put an image set on the Hub, with a card")
    publish.add_argument(
        "source", metavar="SOURCE", help="a folder, a selection such as random:ipc=10,seed=0, or an embedded set"
    )
    publish.add_argument("push_to", metavar="OWNER/REPO", help="dataset repo, made if missing; other sets in it stay")
    publish.add_argument("--benchmark", help="the real data (default: what distilled.json says, else digits)")
    publish.add_argument("--data-dir", metavar="DIR", help="read the benchmark's real data from here")
    add_how(publish)
    study = commands.add_parser("study", help="image sets x protocols x students x seeds: plan, run what is missing, report")
    study.add_argument("study", metavar="STUDY.toml", help="such as studies/digits-smoke.toml")
    add_data_dirs(study)
    study.add_argument("--out", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    study.add_argument("--soft-labels", metavar="DIR", default="soft_labels", help="folder of stores (default: %(default)s)")
    study.add_argument("--workers", type=positive, default=1, help="cells at a time, each on a GPU of its own where there are "
                       "GPUs (default: %(default)s)")  # fmt: skip
    study.add_argument("--config", metavar="YAML", help="of accelerate (default: single_gpu_bf16 with a GPU, else cpu)")
    study.add_argument("--index", metavar="I", type=seed, help="do only part I, from 0, of --count parts (default: the task "
                       "of a Slurm job array, if this is one)")  # fmt: skip
    study.add_argument("--count", metavar="N", type=positive, help="number of parts")
    study.add_argument("--dry-run", action="store_true", help="print the plan, and stop")
    study.add_argument("--report-only", action="store_true", help="write the report of what is there, and stop")
    add_transfer(commands)
    board = commands.add_parser("leaderboard", help="a static site of Runs from folders and from the Hub, each checked")
    board.add_argument("--results", metavar="DIR", nargs="+", action="extend", default=[], help="folders that hold Runs")
    board.add_argument("--hub-tag", metavar="TAG", help="also the Runs of all model repos with this tag, such as rd3")
    board.add_argument("--hub-repos", metavar="A,B", help="also those of these model repos, OWNER/REPO[@REVISION]")
    board.add_argument("--out", metavar="SITE", required=True, help="folder of the site; a former one is replaced")
    board.add_argument("--publish", metavar="OWNER/SPACE", help="push it as a static Space, which is made if missing")
    board.add_argument("--private", action="store_true", help="make a Space that is missing private")
    calculator.add_to(commands)
    return parser.parse_args()


def add_transfer(commands):
    carry = commands.add_parser("transfer", help="what frozen features of students tell about other benchmarks")
    carry.add_argument("students", nargs="+", metavar="STUDENT", help="a seed folder of results, or hf-hub:OWNER/REPO")
    carry.add_argument("--to", required=True, metavar="NAME[,NAME]", help="benchmarks, or .toml files that state one")
    carry.add_argument("--against", nargs="+", default=[], metavar="STUDENT", help="random-images students of the same recipe "
                       "(default: those kept beside a student by --keep-weights all)")  # fmt: skip
    add_data_dirs(carry)
    carry.add_argument("--train-per-class", type=positive, metavar="N", help="train images of each class (default: all)")
    carry.add_argument("--neighbours", type=positive, default=5, metavar="K", help="of k-NN (default: %(default)s)")
    carry.add_argument("--seed", type=seed, default=0, help="of the train and held-out images (default: %(default)s)")
    carry.add_argument("--out", metavar="DIR", default="results", help="folder of results (default: %(default)s)")


RECOVERY = {  # options of sre2l and cda; those without a default follow the image size, see learning/recovery.py
    "--teacher": dict(metavar="SOURCE", default="default", help="network with batch norm (default: the benchmark's)"),
    "--init": dict(choices=tuple(recovery.STARTS), default="noise", help="what images start from (default: noise)"),
    "--iterations": dict(type=positive, help="steps per image (default: 1000 up to 32 px, 4000 above)"),
    "--batch": dict(type=positive, default=recovery.CLASSES, help="classes optimised together (default: %(default)s)"),
    "--learning-rate": dict(type=float, help="of Adam at the start"),
    "--bn-weight": dict(type=float, help="of the distance from the teacher's batch-norm statistics"),
    "--jitter": dict(type=int, metavar="PIXELS", help="largest shift of a step"),
    "--min-crop": dict(type=float, metavar="SHARE", help="least share of the area that a step may see; 1: no crops"),
}
SETTINGS = {  # options of each method of `synthesize`
    "dm": {
        "--iterations": dict(type=positive, default=1000),
        "--student": dict(help="network that embeds the images (default: the benchmark's)"),
        "--dsa": dict(
            metavar="OPERATIONS",
            default="none",
            help="change real and synthetic images alike, such as "
            "color_crop_cutout_flip_scale_rotate, the original's (default: none)",
        ),
    },
    "rded": {
        "--teacher": dict(metavar="SOURCE", default="default", help="network that scores patches (default: the benchmark's)"),
        "--candidates": dict(type=positive, default=300, help="real images of each class to choose from (default: 300)"),
        "--crops": dict(type=positive, default=5, help="random crops of each (default: 5)"),
        "--factor": dict(type=positive, help="patches per side of an image (default: 1 up to 64 px, 2 above)"),
    },
    "sre2l": RECOVERY,
    "cda": {
        **RECOVERY,
        "--curriculum": dict(choices=tuple(recovery.CURRICULA), help="how the crops' lower bound falls (default: cosine)"),
        "--milestone": dict(type=float, metavar="SHARE", help="of the iterations in which it falls (default: 1)"),
    },
}


def main(options):
    COMMANDS[options.command](options)


def list_all(options):
    """Print everything that has a name, one line each."""
    for name in benchmark.names():
        b = benchmark.load(name)
        print(f"benchmark  {name:19} {b.title}: {len(b.classes)} classes, {b.image.size} px, "
              f"{b.data.train_images or 'some'} train / {b.data.test_images} test")  # fmt: skip
    for name in protocol.names():
        p = protocol.load(name)
        print(f"protocol   {name:19} {p.title} [{p.digest}]")
    for name in selections.SELECTIONS:
        print(f"images     {name:19} {SELECTION_HELP[name]}")
    for name in image_sets.embedded_sets():
        print(f"images     {name:19} embedded")
    for publisher in catalogue.publishers():
        for name, text in publisher.methods.items():
            there = f"{name}:ipc=K, K in {', '.join(map(str, publisher.ipc))}, of {publisher.benchmark}: {text}"
            print(f"images     {name:19} {there}; {publisher.repo.format(method=name, ipc='K')} by "
                  f"{publisher.made_by}, licence {publisher.licence}")  # fmt: skip
    for name, method in synthesis.METHODS.items():
        print(f"synthesize {name:19} {method.__doc__.partition(':')[0]}")
    for name, text in students.OWN.items():
        print(f"student    {name:19} {text}")
    print(f"student    {'NAME':19} every timm architecture that takes the benchmark's image size")
    for name, function in losses.LOSSES.items():
        print(f"loss       {name:19} {function.__doc__.splitlines()[0]}")


SELECTION_HELP = {
    "random": "random:ipc=K,seed=S: K real training images per class",
    "full": "the whole train split",
}


def synthesize(options):
    """Make a distilled set and say where it lies."""
    bench = benchmark.load(options.benchmark)
    settings = {key: getattr(options, key) for key in (name[2:].replace("-", "_") for name in SETTINGS[options.method])}
    made = synthesis.synthesize(options.method, bench, options.ipc, options.out, options.seed, options.data_dir, **settings)
    words = ["--benchmark", bench.name, "--distilled", options.out, "--teacher", settings.get("teacher", "default")]
    words += ["--data-dir", options.data_dir] if options.data_dir else []
    print(f"{made.identity}: {len(made)} images in {options.out}. Train on it with: accelerate launch train_student.py "
          f"{shlex.join(words)}")  # fmt: skip


def convert(options):
    """Make an image set of a released tensor and say where it lies."""
    bench = benchmark.load(options.benchmark)
    if (options.mean is None) != (options.std is None):
        raise UserError("--mean and --std go together: give both, or neither for the benchmark's.")
    normalisation = (tuple(options.mean), tuple(options.std)) if options.mean else None

    def train():
        return selections.select("full", bench, lambda: tables.real(bench, "train", options.data_dir))

    found, about = conversion.convert(
        options.source, options.out, bench, train, options.method, normalisation, options.zca, options.most_clipped
    )
    learned = "with learned labels" if found.soft_labels is not None else "without learned labels"
    words = ["--benchmark", bench.name, "--distilled", options.out]
    clipped = f"{100 * about['clipped']:.2f} % of the values clipped"
    print(f"{found.identity}: {len(found)} images {learned} in {options.out}, {clipped}. "
          f"Train on it with: accelerate launch train_student.py {shlex.join(words)}")  # fmt: skip


def publish(options):
    """Push an image set to a dataset repo of the Hub."""
    target = push_target(options, "dataset")
    hub.may_push(target)
    stated = dataset_repo.stated(options.source)
    bench = benchmark.load(options.benchmark or stated.get("benchmark", "digits"))
    images = selections.image_set(options.source, bench, lambda: tables.real(bench, "train", options.data_dir))
    dataset_repo.publish_images(target, images, dataset_repo.about_images(options.source, images), bench)


def study(options):
    """Show the plan of a study, run what is missing, write its report."""
    if (options.index is None) != (options.count is None):
        raise UserError("--index I and --count N go together.")
    index, count = (options.index, options.count) if options.count else progress.array_task() or (0, 1)
    if index >= count:
        raise UserError(f"--index {index} of --count {count}: parts are numbered from 0 to {count - 1}.")
    name = "single_gpu_bf16.yaml" if torch.cuda.is_available() else "cpu.yaml"
    config_path = Path(options.config or studies.PROJECT / "accelerate_configs" / name)
    config = studies.read_config(config_path)
    read = studies.load(options.study)
    where = tables.data_dirs(options.data_dir, read.benchmarks), studies.precision_of(config), options.soft_labels
    plan = studies.Plan(read, options.out, *where, studies.device_of(config))
    plan.facts = study_report.facts(plan.folder)
    mine, failed = set(studies.share(plan.asked, index, count)), 0  # of all: sets may come while others train
    chosen = [cell for cell in plan.cells if cell in mine]
    if not options.report_only:
        progress.show(plan, plan.place(False, chosen), config_path.name)
        if options.dry_run:
            return
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
    text = study_report.write(plan.folder, plan.study, findings.findings(plan.study, placed, facts, plan.left_out), facts)
    print(f"report {text}")
    if failed:
        raise UserError(f"{failed} of {len(chosen)} cells failed; the same command tries them again.")


def carry_over(options):
    """Score frozen features on other benchmarks and print what they gain."""
    texts = list(dict.fromkeys(options.to.split(",")))
    to = [benchmark.read(Path(text)) if text.endswith(".toml") else benchmark.load(text) for text in texts]
    folders = tables.data_dirs(options.data_dir, [bench.name for bench in to])
    settings = options.train_per_class, options.neighbours, options.seed
    targets = [partial(transfer.target, bench, folders.get(bench.name), *settings) for bench in to]
    for found in transfer.transfer(options.students, options.against, targets, options.out):
        transfer_report.say(*found)


def build_leaderboard(options):
    """Gather Runs, write the site, and push it if asked."""
    if not (options.results or options.hub_tag or options.hub_repos):
        raise UserError("give --results DIR, --hub-tag TAG or --hub-repos OWNER/REPO: a leaderboard needs Runs.")
    if options.private and not options.publish:
        raise UserError("--private needs --publish OWNER/SPACE.")
    target = hub.Target(options.publish, "space", options.private) if options.publish else None
    if target:
        leaderboard.check_space(target)
    leaderboard.check_new(options.out)
    repos = [repo for repo in (options.hub_repos or "").split(",") if repo]
    found = leaderboard.gather(options.results, options.hub_tag, repos)
    files = leaderboard.build(found, options.out)
    for note in found.notes:
        print(note, file=sys.stderr)
    ranked, apart = sum(len(entry.runs) for entry in found.entries), len(found.apart) + found.left_out
    print(f"{len(found.entries)} entries of {ranked} Runs, {apart} files not ranked: {Path(options.out) / 'index.html'}")
    if target:
        pushed = leaderboard.publish(target, files)
        print(f"{'pushed' if pushed.new else 'nothing to push, all is there:'} {pushed.url} at {pushed.commit}")


COMMANDS = {
    "list": list_all,
    "synthesize": synthesize,
    "convert": convert,
    "publish": publish,
    "study": study,
    "transfer": carry_over,
    "leaderboard": build_leaderboard,
    "score": calculator.main,
}

if __name__ == "__main__":
    launch.run(main, parse())
