"""Train students on a distilled dataset under one protocol, score them on the whole test split, and write a model card.

    accelerate launch train_student.py --teacher default            # the embedded benchmark
    accelerate launch train_student.py --distilled my_set/ --soft-labels my_labels/ --arms distilled-soft,random-soft \
        --teacher default --seeds 0,1,2

Writes results/<benchmark>/<protocol>-<digest>/<images>@<fingerprint>/<student>/<arm>/seed<K>.json, the weights of the first
seed beside it, and the card README.md above the arms. Runs that are there are kept: the same command again trains only
what is missing. The score is the last epoch's; the test split is opened once per run. --push-to OWNER/REPO puts network, card
and Runs on the Hub.
"""

from argparse import ArgumentParser, Namespace
from functools import partial

from rd3_utils.cli import options as shared
from rd3_utils.options import TrainOptions


def add_options(parser: ArgumentParser) -> None:
    """Options of `train`, and of train_student.py."""
    measured = shared.add_what(parser, each=True)
    measured.add_argument("--soft-labels", metavar="SOURCE", help="a label store, the folder of stores in "
                      "which to look and, with --teacher, to make missing ones, or OWNER/REPO[@REVISION][:PATH] "
                      "(default: %(default)s)")  # fmt: skip
    measured.add_argument("--student", metavar="NAME[,NAME]", help="networks to train (default: the benchmark's)")
    measured.add_argument("--arms", metavar="ARM[,ARM]", help="images-labels, such as distilled-soft,random-soft,full-hard; "
                      "groups: lrs, ars, all (default: distilled, with the protocol's own labels)")  # fmt: skip
    measured.add_argument("--full-hard", choices=("trained", "cited"), help="train a student on all real images "
                      "for HLR and LRS, or cite a published accuracy; outputs say which (default: %(default)s)")  # fmt: skip
    measured.add_argument("--seeds", metavar="K[,K]", type=shared.numbers, help="student seeds (default: 0)")
    measured.add_argument("--draws", type=shared.draws, help="draws of random images (default: %(default)s)")
    measured.add_argument("--draw", metavar="K", type=shared.seed, help="of random images only draw K (default: all --draws)")
    where = shared.add_where(parser, "folder of results", "print recipes, sources, steps and bytes, and stop")
    where.add_argument("--label-cache-gb", metavar="GB", type=shared.gigabytes, help="keep at most this much of labels from "
                       "the Hub, and no fewer than two shards (default: all, in the Hub's cache)")  # fmt: skip
    where.add_argument("--check-labels", type=shared.batches, metavar="N", help="forward batches of each label shard that the "
                       "teachers label again: those given, or those that the store names (default: 1 with --teacher, "
                       "else 0)")  # fmt: skip
    where.add_argument("--runs-only", action="store_true", help="write Runs and neither weights nor a card: for a study")
    where.add_argument("--keep-weights", choices=("first", "all"), help="of the first seed and not of "
                       "random images, or all networks, for transfer; only the first is ever pushed")  # fmt: skip
    where.add_argument("--monitor-test", action="store_true", help="watch the test split during training; outputs say so, "
                       "and the score stays the last epoch's")  # fmt: skip
    where.add_argument("--allow-test-images", action="store_true", help="train on a set that holds images of the test split; "
                       "outputs say so")  # fmt: skip
    where.add_argument("--online", action="store_true", help="label each epoch when it is trained, with --teacher: no "
                       "store, the same bits; every process labels whole epochs")  # fmt: skip
    where.add_argument("--log-with", choices=("tensorboard", "trackio", "wandb"), help="also log every epoch there")
    shared.add_labels(where)
    publish = shared.add_publish(parser, "the first seed's network, its card and all runs")
    publish.add_argument("--push-only", action="store_true", help="train nothing; push what an earlier command trained")
    shared.take_defaults(parser, TrainOptions)


parse = partial(shared.parse_alone, TrainOptions, add_options, __doc__)  # of train_student.py


def run(options: Namespace) -> None:
    """Train the students."""
    import train_student

    train_student.main(shared.frozen(TrainOptions, options))
