"""What the two scripts were asked to do, as frozen data: every option with its default, which is stated here alone.

cli/train.py and cli/label.py say how people give them; command_lines.py writes them as a command again.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

PUBLISH = ("push_to", "private", "create_pr", "tag", "push_only", "with_images")  # of both; no part of what makes a result


@dataclass(frozen=True)
class TrainOptions:
    """What train_student.py was asked, in the order in which commands state it; None: as benchmark or machine have it."""

    benchmark: str = "digits"
    protocol: str = "rd3-v1"  # a name, or a .toml file
    distilled: str | None = None  # SOURCE
    teacher: tuple[str, ...] = ()
    views_seed: int | str = 0  # or "each"
    set: tuple[str, ...] = ()  # KEY=VALUE of knobs
    soft_labels: str = "soft_labels"
    student: str | None = None  # names, with commas between them
    arms: str | None = None
    full_hard: str = "trained"  # or cited
    seeds: tuple[int, ...] = (0,)
    draws: int = 3
    draw: int | None = None  # this one alone
    data_dir: str | None = None
    out: str = "results"
    workers: int | None = None
    label_cache_gb: float | None = None
    check_labels: int | None = None  # None: 1 where a teacher is given, else 0
    dry_run: bool = False
    runs_only: bool = False
    keep_weights: str = "first"  # or all
    monitor_test: bool = False
    allow_test_images: bool = False
    online: bool = False
    log_with: str | None = None
    forward_batch: int = 100
    label_dtype: str = "fp16"
    shard_mb: int = 256
    push_to: str | None = None
    private: bool = False
    create_pr: bool = False
    tag: str | None = None
    push_only: bool = False


@dataclass(frozen=True)
class LabelOptions:
    """What generate_soft_labels.py was asked, in the order in which commands state it; None as in TrainOptions."""

    benchmark: str = "digits"
    protocol: str = "rd3-v1"
    distilled: str | None = None
    teacher: tuple[str, ...] = ()
    views_seed: int = 0
    set: tuple[str, ...] = ()
    student: str | None = None
    labels: str = "soft"  # or plain
    data_dir: str | None = None
    out: str = "soft_labels"
    workers: int | None = None
    dry_run: bool = False
    forward_batch: int = 100
    label_dtype: str = "fp16"
    shard_mb: int = 256
    push_to: str | None = None
    private: bool = False
    create_pr: bool = False
    tag: str | None = None
    with_images: bool = False

    def for_training(self) -> TrainOptions:
        """The options with which train_student.py finds these labels and learns from them."""
        return TrainOptions(
            benchmark=self.benchmark,
            protocol=self.protocol,
            distilled=self.distilled,
            teacher=self.teacher,
            views_seed=self.views_seed,
            set=self.set,
            soft_labels=self.out,
            student=self.student,
            arms="distilled-plain" if self.labels == "plain" else None,
            data_dir=self.data_dir,
        )


@dataclass(frozen=True)
class VerifyOptions:
    """What `python -m rd3_utils verify` was asked; None: not asked, or as the machine has it."""

    source: str
    data_dir: tuple[str, ...] = ()  # [NAME=]DIR
    distilled: str | None = None  # the images of a label store or of --retrain; without it, those that an index or a Run names
    teacher: tuple[str, ...] = ()  # of label stores and of --retrain; without one, those that an index or a Run names
    check_labels: int = 1  # forward batches of each shard that a teacher labels again
    retrain: int | str | None = None  # a seed, or "first"
    strict: bool = False
    json: bool = False
    workers: int | None = None


Options = TypeVar("Options", TrainOptions, LabelOptions, VerifyOptions)


def unpublished(options: Options) -> Options:
    """`options` without those that publish: what makes the same result, and pushes nothing."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(options) if field.name in PUBLISH}
    return replace(options, **defaults)
