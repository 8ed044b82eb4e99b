"""A dress rehearsal of ImageNet-1K: python -m bench.imagenet --shape 1k --images 10000 --work DIR [--stages read,labels]

Every stage of a cell of the main table at its true shapes, on stand-ins: synthetic JPEGs of ImageNet's sizes in 1,000 classes,
and a teacher whose head is fitted to them. The benchmark's floor and counts are lowered in a copy that lies in DIR. Each stage
is the command a person would run; it is timed from outside: seconds, CPU-seconds of all its processes, peak memory (anonymous
and mapped apart), the longest time without a sign of life, bytes written. `--shape small` is the same with 20 classes of 64 px.

Stages run in the order of STAGES; what a stage needs of an earlier one must be in DIR. DIR/stages.json keeps what was measured.
"""

import argparse
import importlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rd3_utils import units

PROJECT = Path(__file__).parents[1]
SHAPES = {"1k": (1000, 224, 256), "small": (20, 64, 72)}  # classes, pixels, shorter side of real images
PHOTOGRAPH = 500, 375  # of ImageNet's images, the commonest size
POLL = 0.2  # seconds between looks at a stage's memory
TEMPLATES = 12  # pixels per side of what a class looks like, enlarged


@dataclass
class Measured:
    """What one stage took."""

    stage: str
    seconds: float
    cpu_seconds: float
    anonymous: int  # peak bytes of all processes of the stage, together
    mapped: int
    silent: float  # longest time without output
    written: int  # bytes that DIR and the caches grew by
    code: int


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1k")
    parser.add_argument("--images", type=int, default=10_000, help="of the distilled set")
    parser.add_argument("--test-images", type=int, default=2_000)
    parser.add_argument("--listing", type=int, default=1_281_167, help="files of the train folder, as links to few")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--network", default="resnet18", help="teacher and student")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stages", default="all", help=f"of {', '.join(STAGES)}")
    return parser.parse_args()


# --- stand-ins


def looks(k: int, classes: int, size: tuple[int, int], generator):
    """One image of class k, uint8 [H, W, 3]: the class's own coarse pattern, a second one, and grain."""
    import numpy as np
    from PIL import Image

    own = np.random.default_rng(k).uniform(0, 255, (TEMPLATES, TEMPLATES, 3))
    other = generator.uniform(0, 255, (TEMPLATES, TEMPLATES, 3))
    coarse = Image.fromarray((0.7 * own + 0.3 * other).astype(np.uint8)).resize(size, Image.BICUBIC)
    return np.clip(np.asarray(coarse, np.int16) + generator.integers(-24, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)


def write_images(folder: Path, names: list[str], count: int, size: tuple[int, int], seed: int) -> None:
    """`count` JPEGs below `folder`, spread over class folders."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    for i in range(count):
        k = i % len(names)
        where = folder / names[k] / f"{i:06}.jpg"
        where.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(looks(k, len(names), size, generator)).save(where, quality=75)


def write_listing(folder: Path, source: Path, count: int) -> None:
    """A train split of `count` files: links to the few that are in `source`, class by class."""
    classes = sorted(source.iterdir())
    each, more = divmod(count, len(classes))
    for k, one in enumerate(classes):
        target = folder / one.name
        target.mkdir(parents=True, exist_ok=True)
        originals = sorted(one.iterdir())
        for i in range(each + (k < more)):
            os.link(originals[i % len(originals)], target / f"{one.name}_{i}.jpg")


def write_benchmark(options, names: list[str]) -> None:
    """The copy of the benchmark with this rehearsal's classes, counts and a floor that its teacher reaches."""
    from rd3_utils.protocols import benchmark

    folder = options.work / "benchmarks"
    shutil.copytree(benchmark.BENCHMARKS, folder, dirs_exist_ok=True)
    file = folder / "imagenet-1k.toml"
    text, (_, size, shorter) = file.read_text(), SHAPES[options.shape]
    changes = {"train_images": options.listing, "test_images": options.test_images, "teacher_floor": 0.01,
               "size": size, "shorter_side": shorter}  # fmt: skip
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    if len(names) < len(benchmark.load("imagenet-1k").classes):
        text = re.sub(r"(?ms)^classes = \[.*?^\]", f"classes = {json.dumps(names)}", text)
        text = re.sub(r"(?ms)^titles = \[.*?^\]", f"titles = {json.dumps(names)}", text)
    file.write_text(text)


def write_teacher(options, names: list[str]) -> None:
    """A network of random features with a head fitted to two images of each class by ridge regression."""
    import numpy as np
    import torch

    from rd3_utils.learning import students
    from rd3_utils.protocols import benchmark

    benchmark.BENCHMARKS = options.work / "benchmarks"
    bench, size = benchmark.load("imagenet-1k"), SHAPES[options.shape][1]
    network = students.create(students.architecture(options.network, bench), bench, 0).eval()
    generator, features, labels = np.random.default_rng(9), [], []
    mean, std = (torch.tensor(v)[:, None, None] for v in (bench.image.mean, bench.image.std))
    with torch.no_grad():
        for start in range(0, 2 * len(names), 100):
            classes = [i % len(names) for i in range(start, min(start + 100, 2 * len(names)))]
            pixels = np.stack([looks(k, len(names), (size, size), generator) for k in classes]).transpose(0, 3, 1, 2)
            x = (torch.from_numpy(pixels) / 255 - mean) / std
            features.append(network.forward_head(network.forward_features(x), pre_logits=True))
            labels += classes
        z, y = torch.cat(features).double(), torch.nn.functional.one_hot(torch.tensor(labels), len(names)).double()
        centre = z.mean(0)
        z = z - centre
        weight = torch.linalg.solve(z.T @ z + 1e-3 * z.pow(2).mean() * len(z) * torch.eye(z.shape[1]), z.T @ y)
        head = network.get_classifier()
        head.weight.copy_(20 * weight.T.float())
        head.bias.copy_(-20 * (centre @ weight).float())
    students.save(network, options.work / "teacher", bench)


def prepare(options) -> None:
    """Everything that stages read, where it is not there yet."""
    from rd3_utils.protocols import benchmark

    classes, size, _ = SHAPES[options.shape]
    names = list(benchmark.load("imagenet-1k").classes[:classes])
    made = options.work / "made"
    if made.exists():
        return
    shutil.rmtree(options.work, ignore_errors=True)
    write_images(options.work / "set", names, options.images, (size, size), 1)
    write_images(options.work / "few", names, 2 * classes, PHOTOGRAPH, 2)
    write_images(options.work / "data" / "val", names, options.test_images, PHOTOGRAPH, 3)
    write_listing(options.work / "data" / "train", options.work / "few", options.listing)
    write_benchmark(options, names)
    write_teacher(options, names)
    made.touch()


# --- stages


def commands(options) -> dict[str, list]:
    """{stage: the command, a list of words, or a list of such}; {} in a word stands for the folder of work."""
    what = ["--benchmark", "imagenet-1k", "--distilled", "{}/set", "--set", f"training.epochs={options.epochs}"]
    data, out = ["--data-dir", "{}/data"], ["--out", "{}/soft_labels"]
    teacher = ["--teacher", "local-dir:{}/teacher"]
    student = ["--student", options.network]
    train = ["train_student.py", *what, *data, *student]
    longer = [word.replace(f"epochs={options.epochs}", f"epochs={options.epochs + 1}") for word in what]
    return {
        "list": [*train, "--arms", "random-hard", "--draws", "1", "--dry-run"],
        "list again": [*train, "--arms", "random-hard", "--draws", "1", "--dry-run"],
        "read": [*train, *teacher, "--dry-run"],
        "read again": [*train, *teacher, "--dry-run"],
        "publish": ["rd3_utils", "publish", "{}/set", "alice/rehearsal", "--benchmark", "imagenet-1k", *data],
        "labels": ["generate_soft_labels.py", *what, *data, *teacher, *out],
        "labels longer": ["generate_soft_labels.py", *longer, *data, *teacher, *out],
        "train": [*train, "--soft-labels", "{}/soft_labels", "--out", "{}/results"],
        "killed, resumed": [*train, "--soft-labels", "{}/soft_labels", "--out", "{}/resumed"],
        "online": [*train, *teacher, "--online", "--out", "{}/online"],
        "push labels": ["generate_soft_labels.py", *what, *data, *teacher, *out, "--push-to", "alice/rehearsal-labels"],
        "stream": [*train, "--soft-labels", "alice/rehearsal-labels", "--label-cache-gb", "0", "--out", "{}/streamed"],
        "push": [*train, "--soft-labels", "{}/soft_labels", "--out", "{}/results", "--push-to", "alice/student", "--push-only"],
        "board": ["rd3_utils", "leaderboard", "--results", "{}/results", "--out", "{}/board"],
    }


STAGES = list(commands(argparse.Namespace(epochs=1, network="")))


def measured(stage: str, words: list[str], options, environment: dict, kill_after: float | None = None) -> Measured:
    """Run the command `words` of a stage and measure it from outside; `kill_after` seconds it is killed."""
    words = [word.replace("{}", str(options.work)) for word in words]
    command = [sys.executable, "-m", "bench.imagenet", "--run", str(options.work), *words]
    before = used(options.work)
    log = options.work / "logs" / f"{stage.replace(' ', '-').replace(',', '')}.log"
    log.parent.mkdir(exist_ok=True)
    started = last = time.monotonic()
    silent, peaks, done = 0.0, [0, 0], threading.Event()
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)  # fmt: skip
    watcher = threading.Thread(target=watch, args=(process.pid, peaks, done))
    watcher.start()
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector, open(log, "wb") as file:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if kill_after and time.monotonic() - started > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
            if not selector.select(POLL):
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            now = time.monotonic()
            silent, last = max(silent, now - last), now
            if not data:
                break
            file.write(data)
    _, status, usage = os.wait4(process.pid, 0)
    done.set()
    watcher.join()
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(stage, time.monotonic() - started, cpu, *peaks, silent, used(options.work) - before,
                    os.waitstatus_to_exitcode(status))  # fmt: skip


def watch(pid: int, peaks: list[int], done: threading.Event) -> None:
    """Keep in `peaks` the most bytes, anonymous and mapped, that the processes of the group `pid` held together."""
    while not done.wait(POLL):
        held = [0, 0]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) != pid:
                    continue
                status = dict(re.findall(r"^(Rss\w+):\s+(\d+) kB", (folder / "status").read_text(), re.M))
            except (OSError, ValueError, IndexError):
                continue  # it ended meanwhile
            held[0] += 1024 * int(status.get("RssAnon", 0))
            held[1] += 1024 * (int(status.get("RssFile", 0)) + int(status.get("RssShmem", 0)))
        peaks[:] = [max(pair) for pair in zip(peaks, held)]


def used(folder: Path) -> int:
    """Bytes on the disk of `folder`."""
    return shutil.disk_usage(folder).used


def run_command(work: Path, words: list[str]) -> None:
    """What a stage's process does: one of the project's commands, with the benchmark of this rehearsal."""
    from rd3_utils.protocols import benchmark

    benchmark.BENCHMARKS = work / "benchmarks"
    name, sys.argv = words[0].removesuffix(".py"), words
    module = importlib.import_module("rd3_utils.__main__" if name == "rd3_utils" else name)
    from rd3_utils import launch

    launch.run(module.main, module.parse())


def hub(work: Path) -> tuple[subprocess.Popen, dict]:
    """A local Hub, and the environment of those who talk to it."""
    port = 18700 + os.getpid() % 1000
    server = subprocess.Popen([sys.executable, str(PROJECT / "tests" / "hub" / "minihub.py"), "--root", str(work / "hub"),
                               "--port", str(port), "--cdn-port", str(port + 1000)], stdout=subprocess.DEVNULL)  # fmt: skip
    time.sleep(2)
    return server, {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": "hf_writer", "HF_HUB_DISABLE_XET": "1"}


def main(options) -> None:
    options.work = options.work.absolute()
    prepare(options)
    wanted = STAGES if options.stages == "all" else options.stages.split(",")
    server, settings = hub(options.work)
    environment = {**os.environ, **settings, "HF_HOME": str(options.work / "cache"), "PYTHONPATH": str(PROJECT)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    file = options.work / "stages.json"
    table = json.loads(file.read_text()) if file.exists() else {}
    print(
        f"{'stage':16} {'seconds':>8} {'CPU s':>8} {'anonymous':>10} {'mapped':>8} {'silent s':>8} {'written':>8}", flush=True
    )
    try:
        for stage in wanted:
            words = commands(options)[stage]
            if stage == "killed, resumed":
                half = 0.6 * table["train"]["seconds"] if "train" in table else 60
                measured("killed", words, options, environment, kill_after=half)
            one = measured(stage, words, options, environment)
            table[stage] = asdict(one)
            file.write_text(json.dumps(table, indent=1) + "\n")
            sizes = [units.size(value) for value in (one.anonymous, one.mapped, max(0, one.written))]
            print(f"{stage:16} {one.seconds:8.1f} {one.cpu_seconds:8.1f} {sizes[0]:>10} {sizes[1]:>8} {one.silent:8.1f} "
                  f"{sizes[2]:>8}{'' if one.code == 0 else f'  exit code {one.code}'}", flush=True)  # fmt: skip
    finally:
        server.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_command(Path(sys.argv[2]), sys.argv[3:])
    else:
        main(parse())
