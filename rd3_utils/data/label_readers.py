"""Labels that need no store: classes, learned labels, one label per image; read epoch by epoch as a store is."""

from typing import Any, Protocol

import torch

from rd3_utils.data import views as views_module
from rd3_utils.data.images import ImageSet
from rd3_utils.data.views import Views
from rd3_utils.protocols.recipe import Recipe


class LabelReader(Protocol):
    """Labels that are read epoch by epoch: a SoftLabelStore, labelling.OnlineLabels, and those of this module."""

    @property
    def teachers(self) -> list[dict]: ...
    @property
    def origin(self) -> dict: ...
    def describe(self) -> dict: ...
    def epoch(self, epoch: int) -> tuple[Views, torch.Tensor | None]: ...


def own_views(recipe: Recipe, views_seed: int, epoch: int) -> Views:
    """The Views of `epoch` where no store holds them; epochs beyond the distinct ones cycle."""
    return views_module.draw(recipe, views_seed, epoch % recipe.label_epochs)


def mixed(logits: torch.Tensor, views: Views, size: int) -> torch.Tensor:
    """float32 [N, C]: one label per image [N, C] becomes one per view: where views mix images, their labels are mixed alike.

    own_share * z_i + (1 - own_share) * z_partner on logits, as zhangxin-xd/UFC ufc_validation/val_static.py does for MixUp
    (INFER, arXiv 2408.06927).
    """
    share = views.own_share(torch.arange(len(logits)), size)[:, None]
    return share * logits + (1 - share) * logits[views.mix_partner]


class HardLabels:
    """The same reader without a teacher: epoch -> (Views drawn on the fly, None)."""

    def __init__(self, recipe: Recipe, views_seed: int) -> None:
        self.recipe, self.views_seed = recipe, views_seed
        self.teachers: list[dict] = []
        self.origin: dict = {}

    def describe(self) -> dict:
        """What a Run records of its labels."""
        return {"kind": "hard", "views_digest": self.recipe.views_digest, "views_seed": self.views_seed}

    def epoch(self, epoch: int) -> tuple[Views, None]:
        """(Views, None) of `epoch`."""
        return own_views(self.recipe, self.views_seed, epoch), None


class LearnedLabels:
    """The same reader of the labels that come with an ImageSet: epoch -> (Views drawn on the fly, logits [N, C])."""

    def __init__(self, recipe: Recipe, views_seed: int, images: ImageSet) -> None:
        self.recipe, self.views_seed, self.logits = recipe, views_seed, images.soft_labels
        self.teachers: list[dict] = []
        self.origin: dict = {}

    def describe(self) -> dict:
        """What a Run records of its labels; the labels themselves are part of the images' fingerprint."""
        return {"kind": "learned", "views_digest": self.recipe.views_digest, "views_seed": self.views_seed}

    def epoch(self, epoch: int) -> tuple[Views, torch.Tensor]:
        """(Views, logits) of `epoch`."""
        assert self.logits is not None  # a set without them is refused before
        views = own_views(self.recipe, self.views_seed, epoch)
        return views, mixed(self.logits, views, self.recipe.image_size)


class StaticLabels:
    """The same reader of one teacher label per plain image: epoch -> (Views drawn on the fly, logits [N, C]).

    `plain` reads the labels of `recipe.labelled`: a SoftLabelStore of one epoch, or what makes it.
    """

    def __init__(self, recipe: Recipe, views_seed: int, plain: Any) -> None:
        self.recipe, self.views_seed, self.plain = recipe, views_seed, plain

    @property
    def teachers(self) -> list[dict]:
        return self.plain.teachers

    @property
    def origin(self) -> dict:
        return self.plain.origin

    def describe(self) -> dict:
        """What a Run records of its labels: those of the plain images, and the views that students see."""
        plain = self.plain.describe()
        kind = "imported" if plain["kind"] == "imported" else "static"
        return {**plain, "kind": kind, "student_views_digest": self.recipe.views_digest}

    def epoch(self, epoch: int) -> tuple[Views, torch.Tensor]:
        """(Views, logits) of `epoch`."""
        views = own_views(self.recipe, self.views_seed, epoch)
        return views, mixed(self.plain.epoch(0)[1], views, self.recipe.image_size)
