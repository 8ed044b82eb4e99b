"""What keeping freed memory saves on a CPU: python -m bench.memory [--student convnet3] [--size 32] [--batch 50]

glibc gives large buffers back to the kernel as soon as they are free, and each training step then asks for them, and has
them zeroed, again. Child processes train the same student on the same images for some steps, alternately with the
environment as it is (A) and with `study.KEEP_MEMORY`, which a study gives its workers on a CPU (B): A B A B ... Prints
milliseconds per step of each and the ratio of the medians, and fails if the two do not end at the same bits.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from rd3_utils.studies import devices

REPEATS, STEPS, WARM_UP = 4, 12, 3


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="convnet3")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def train(options):
    """Print milliseconds per step, as a median, and a checksum of the weights that the steps end at."""
    import timm
    import torch

    from rd3_utils.learning import students  # noqa: F401  registers the field's networks with timm

    torch.manual_seed(0)
    network = timm.create_model(options.student, num_classes=10, img_size=options.size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x = torch.randn(options.batch, 3, options.size, options.size)  # [B, 3, S, S]
    y = torch.randint(0, 10, (options.batch,))
    seconds = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    print(1000 * statistics.median(seconds[WARM_UP:]), sum(p.double().sum().item() for p in network.parameters()).hex())


def main(options):

    mine = {name: value for name, value in os.environ.items() if name not in devices.KEEP_MEMORY}
    mine.setdefault("OMP_NUM_THREADS", "1")
    places = {"as it is": mine, "memory kept": {**mine, **devices.KEEP_MEMORY}}
    words = [
        sys.executable,
        "-m",
        "bench.memory",
        "--student",
        options.student,
        "--size",
        str(options.size),
        "--batch",
        str(options.batch),
        "--child",
    ]
    print(f"{options.student}, {options.batch} images of {options.size} px, {mine['OMP_NUM_THREADS']} threads, "
          f"{REPEATS} alternating processes each, median of {STEPS} steps:")  # fmt: skip
    found, ends = {name: [] for name in places}, set()
    for _ in range(REPEATS):
        for name, environment in places.items():
            out = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
            milliseconds, bits = out.split()
            found[name].append(float(milliseconds))
            ends.add(bits)
    for name, times in found.items():
        print(f"  {name:12} {' '.join(f'{t:7.1f}' for t in times)}  ms per step")
    before, after = (statistics.median(times) for times in found.values())
    print(f"  ratio {before / after:.2f}")
    if len(ends) > 1:
        sys.exit(f"the runs end at other bits: {', '.join(sorted(ends))}")


if __name__ == "__main__":
    given = parse()
    train(given) if given.child else main(given)
