"""python -m rd3_utils publish: put an image set on the Hub, with a card."""

from argparse import ArgumentParser, Namespace

from rd3_utils.cli import options as shared
from rd3_utils.protocols import benchmark


def add_options(parser: ArgumentParser) -> None:
    """Options of `publish`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, a selection such as random:ipc=10,seed=0, or an embedded set"
    )
    parser.add_argument("push_to", metavar="OWNER/REPO", help="dataset repo, made if missing; other sets in it stay")
    parser.add_argument("--benchmark", help="the real data (default: what distilled.json says, else digits)")
    shared.add_data_dir(parser)
    shared.add_how(parser)


def run(options: Namespace) -> None:
    """Push an image set to a dataset repo of the Hub."""
    from rd3_utils import pushing
    from rd3_utils.data import catalogue, provenance, selections, sources, tables
    from rd3_utils.publishing import dataset_repo

    target, source = shared.target(options.push_to, "dataset", options.private, options.create_pr, options.tag), options.source
    stated = provenance.stated_by(sources.parse(source))
    bench = benchmark.load(options.benchmark or str(stated.get("benchmark", "digits")))
    dataset_repo.check_name(target.repo, catalogue.located(sources.parse(source), bench).set_name)
    pushing.may_push(target)
    images = selections.image_set(source, bench, lambda: tables.real(bench, "train", options.data_dir))
    dataset_repo.publish_images(target, images, dataset_repo.about_images(source, images, target), bench)
