"""Label every view of every epoch of an image set with a teacher, once, and keep the labels for every student.

    accelerate launch generate_soft_labels.py                       # the embedded benchmark
    accelerate launch --config_file accelerate_configs/ddp_bf16.yaml generate_soft_labels.py \
        --benchmark digits --distilled random:ipc=10,seed=0 --teacher local-dir:my_teacher

Writes soft_labels/<images>@<fingerprint>/<teachers>-<views>-s<views seed>/: safetensors shards of whole epochs (views
beside fp16 logits) and, last, index.json. The same command again makes only what is missing. Processes share the work by
shard; the bits do not depend on how many there are. With --push-to, shards go to the Hub as they are finished, the index last.
"""

from argparse import ArgumentParser, Namespace
from functools import partial

from rd3_utils.cli import options as shared
from rd3_utils.options import LabelOptions


def add_options(parser: ArgumentParser) -> None:
    """Options of `label`, and of generate_soft_labels.py."""
    measured = shared.add_what(parser)
    measured.add_argument("--student", help="only where a rule of the protocol needs it (default: the benchmark's)")
    measured.add_argument("--labels", choices=("soft", "plain"), help="views of the recipe, or one plain view")
    shared.add_labels(shared.add_where(parser, "folder of stores", "print what would be made, and its size, and stop"))
    publish = shared.add_publish(parser, "the labels")
    publish.add_argument("--with-images", action="store_true", help="push the images too, as parquet")
    shared.take_defaults(parser, LabelOptions)


parse = partial(shared.parse_alone, LabelOptions, add_options, __doc__)  # of generate_soft_labels.py


def run(options: Namespace) -> None:
    """Make the labels."""
    import generate_soft_labels

    generate_soft_labels.main(shared.frozen(LabelOptions, options))
