"""python -m rd3_utils list: everything that has a name, one line each."""

from argparse import ArgumentParser, Namespace

from rd3_utils.data import catalogue, embedded, sources
from rd3_utils.learning import architectures
from rd3_utils.protocols import benchmark, knobs, protocol
from rd3_utils.synthesis import settings


def add_options(parser: ArgumentParser) -> None:
    """`list` has none."""


def run(options: Namespace) -> None:
    """Print everything that has a name, one line each."""
    for name in benchmark.names():
        b = benchmark.load(name)
        print(f"benchmark  {name:19} {b.title}: {len(b.classes)} classes, {b.image.size} px, "
              f"{b.data.train_images or 'some'} train / {b.data.test_images} test")  # fmt: skip
    for name in protocol.names():
        p = protocol.load(name)
        print(f"protocol   {name:19} {p.title} [{p.digest}]")
    for name, text in sources.SELECTIONS.items():
        print(f"images     {name:19} {text}")
    for name in embedded.image_sets():
        print(f"images     {name:19} embedded")
    for publisher in catalogue.publishers():
        for name, text in publisher.methods.items():
            there = f"{name}:ipc=K, K in {', '.join(map(str, publisher.ipc))}, of {publisher.benchmark}: {text}"
            print(f"images     {name:19} {there}; {publisher.repo.format(method=name, ipc='K')} by "
                  f"{publisher.made_by}, licence {publisher.licence}")  # fmt: skip
    for name, (_, text) in settings.METHODS.items():
        print(f"synthesize {name:19} {text}")
    for name, text in architectures.OWN.items():
        print(f"student    {name:19} {text}")
    print(f"student    {'NAME':19} every timm architecture that takes the benchmark's image size")
    for name, loss in knobs.LOSSES.items():
        print(f"loss       {name:19} {loss.text}")
