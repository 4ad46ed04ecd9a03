"""What the first layer is shown: positives, and negatives with false labels or with false images."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, one_hot

from ffbp.algorithms.forward_forward import negatives
from ffbp.algorithms.forward_forward.labels import FirstProducts
from ffbp.algorithms.forward_forward.passes import Passes
from ffbp.data import Batch
from ffbp.errors import ConfigError

Negatives = Literal["uniform", "hard", "all", "hybrid", "blend", "noise"]
WITHOUT_LABELS = ("hybrid", "blend", "noise")
"""Negatives for which no image shows a label."""


class Drawn(NamedTuple):
    """Random numbers that are there already, in the place of a batch's `Draws`."""

    numbers: Tensor  # (B, ...)

    def uniform(self, *shape: int) -> Tensor:
        """Give the numbers, which have shape (B, *shape)."""
        return self.numbers


class Contrast:
    """Make positives and negatives of a batch.

    With `uniform`, `hard` or `all` negatives, positives show their true label, and negatives are the same images with
    false labels. With `hybrid`, `blend` or `noise`, positives are the real images, negatives are images that show no
    digit, and no image shows a label.

    Args:
        kind: how negatives are made, see `negatives`.
        classes: how many there are.
    """

    def __init__(self, kind: Negatives, classes: int) -> None:
        self.kind, self.classes = kind, classes
        self.shows_labels = kind not in WITHOUT_LABELS

    def __call__(self, batch: Batch, products: FirstProducts, logits: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """Compute the first layer's products with positives and, after them, N negatives of each: ((1 + N) * B, ...).

        Also give the weights of the labels that they show, ((1 + N) * B, classes), all 0 if there are none. `products`
        and the softmax head's `logits` (B, classes) are the batch's; `passes` multiply any false images.
        """
        if not self.shows_labels:
            both = torch.cat([products.images, passes.first(self.false_images(batch)).images])
            return both, both.new_zeros(len(both), self.classes)
        shown = torch.cat([batch.labels.unsqueeze(0), self.false_labels(batch, logits)])  # (1 + N, B)
        weights = one_hot(shown.flatten(), self.classes).to(products.labels.dtype)
        if torch.compiler.is_compiling():  # its threads would add up a lookup's gradient in any order
            chosen = weights @ products.labels.flatten(1)
        else:
            chosen = embedding(shown, products.labels.flatten(1))  # (1 + N, B, numbers)
        patterns = chosen.view(len(shown), *products.images.shape)
        # a copy that is no view of another tensor: changing a view in place, as activations do, costs autograd five
        return (products.images + patterns).flatten(0, 1).clone(), weights

    def draw(self, batch: Batch) -> Tensor:
        """Draw all random numbers that the negatives of a batch need, shape (B, ...), see `Drawn`."""
        height, width = batch.images.shape[2:]
        shapes = {"hard": (self.classes,), "uniform": (), "hybrid": (height, width), "noise": (height * width,)}
        return batch.draws.uniform(*shapes[self.kind]) if self.kind in shapes else batch.images.new_empty(0)

    def false_labels(self, batch: Batch, logits: Tensor) -> Tensor:
        """Give each image N labels other than its own, shape (N, B)."""
        if self.kind == "all":
            return negatives.all_negatives(batch.labels, self.classes)
        if self.kind == "hard":
            return negatives.hard_negatives(batch.labels, logits, batch.draws.uniform(self.classes)).unsqueeze(0)
        return negatives.uniform_negatives(batch.labels, self.classes, batch.draws.uniform()).unsqueeze(0)

    def false_images(self, batch: Batch) -> Tensor:
        """Make images that show no digit out of those of the batch, shape (B, C, H, W)."""
        height, width = batch.images.shape[2:]
        if self.kind == "hybrid":
            return negatives.hybrids(batch.images, negatives.region_masks(batch.draws.uniform(height, width)))
        if self.kind == "blend":
            return negatives.blends(batch.images)
        return negatives.scrambled(batch.images, batch.draws.uniform(height * width))

    def check_settings(self, readout: str, readout_share: float, label_embedding: str | None) -> None:
        """Raise a ConfigError if a setting is incompatible with this kind of negatives."""
        if not self.shows_labels and readout == "goodness":
            raise ConfigError(
                f"algo.readout=goodness: the layers never see a label with algo.negatives={self.kind}; use softmax."
            )
        if not self.shows_labels and label_embedding is not None:
            raise ConfigError(
                f"algo.label_embedding={label_embedding}: no label is shown with algo.negatives={self.kind}; use null."
            )
        if self.kind == "hard" and readout_share:
            raise ConfigError(
                f"algo.readout_share={readout_share:g}: algo.negatives=hard are drawn from the softmax head's "
                f"mistakes, so it must learn from the start; use algo.readout_share=0 or other negatives."
            )
