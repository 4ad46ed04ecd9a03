"""The forward passes of Forward-Forward: activities are detached and normalised between layers."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from ffbp.algorithms.forward_forward.goodness import rms
from ffbp.algorithms.forward_forward.labels import FirstProducts, LabelEmbedding, LabelUnits
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import ZeroOrMore

ReadoutLayers = Literal["all", "later"] | list[ZeroOrMore]
"""All layers; later ones, which are all but the first if there are several; or a list of numbers from 0."""


class Passes:
    """Run images through a stack, layer by layer.

    Args:
        stack: whose blocks are run.
        embedding: how an image carries a label.
        normalize: what is done to an activity before the next layer sees it.
        normalize_images: whether each image is divided by the root mean square of its pixels; labels are shown after.
    """

    def __init__(
        self,
        stack: Stack,
        embedding: LabelEmbedding | LabelUnits,
        normalize: Callable[[Tensor], Tensor],
        normalize_images: bool,
    ) -> None:
        self.stack, self.embedding, self.normalize = stack, embedding, normalize
        self.normalize_images = normalize_images

    def first(self, images: Tensor) -> FirstProducts:
        """Multiply images (B, C, H, W) by the first layer's weights, once for all labels, see `labels`."""
        if self.normalize_images:
            images = rms(images.flatten(1)).view_as(images)
        return self.embedding.products(self.stack.blocks[0], images)

    def product(self, k: int, below: Tensor, labels: Tensor | None = None) -> Tensor:
        """The product of layer k >= 1 with the activity (B, ...) of the layer below, detached and normalised.

        `labels` are the weights of the labels that are shown, (B, classes), or (1, classes) for all images. An
        embedding that shows them to the first layer alone needs none.
        """
        block = self.stack.blocks[k]
        return self.embedding.labelled(k, block.product(block.dropout(self.seen_above(below))), labels)

    def seen_above(self, activity: Tensor) -> Tensor:
        """What a layer or a read-out above sees of an activity: detached, normalised, in the activity's precision."""
        return self.normalize(activity.detach())

    def activities(self, product: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """Yield the activity (B, ...) of each layer, given the first one's product (B, ...) and `labels` as above."""
        activity = product
        for k, block in enumerate(self.stack.blocks):
            activity = block.after(self.product(k, activity, labels) if k else product)
            yield activity

    def neutral(self, products: FirstProducts) -> Iterator[Tensor]:
        """Yield the activity (B, ...) of each layer under the neutral label."""
        classes = self.stack.classes
        labels = products.images.new_full((1, classes), 1 / classes)
        return self.activities(products.images + products.labels.sum(0) / classes, labels)

    @torch.no_grad()
    def features(self, products: FirstProducts, layers: Sequence[int]) -> Tensor:
        """The normalised activities of `layers` under the neutral label, side by side, shape (B, features)."""
        needed = islice(self.neutral(products), max(layers) + 1)
        return torch.cat([self.seen_above(h).flatten(1) for k, h in enumerate(needed) if k in layers], 1)

    def label_goodness(
        self, products: FirstProducts, goodness: Callable[[Tensor], Tensor], depth: int | None = None
    ) -> list[Tensor]:
        """The goodness of each image under each label, (B, classes) for each of the first `depth` layers or of all."""
        count, classes = products.images.shape[0], products.labels.shape[0]
        product = (products.images.unsqueeze(1) + products.labels).flatten(0, 1)  # (B * classes, ...)
        one_each = torch.eye(classes, dtype=product.dtype, device=product.device)
        activities = islice(self.activities(product, one_each.repeat(count, 1)), depth)
        return [goodness(activity).view(count, classes) for activity in activities]


def layer_numbers(chosen: ReadoutLayers, depth: int) -> list[int]:
    """The numbers of the chosen layers, sorted, out of `depth` layers."""
    if isinstance(chosen, str):
        return list(range(1 if chosen == "later" and depth > 1 else 0, depth))
    if not chosen or max(chosen) >= depth or len(set(chosen)) < len(chosen):
        raise ConfigError(f"algo.readout_layers={chosen}: different numbers from 0 to {depth - 1} expected.")
    return sorted(chosen)
