"""What a trained model can be asked: classes, scores, and what its layers do.

    model = ffbp.load("logs/ff/...")
    model.predict(images)  # classes, (N,)
    model(images)  # scores, (N, classes)
    model.probabilities(images)  # (N, classes)
    model.goodness_by_layer(images)  # (N, layers, classes)
    model.activities_by_layer(images)  # for each layer (N, units) or (N, C, H, W)

Images are NumPy arrays or tensors, uint8 or floats in [0, 1], of shape (N, C, H, W), or (C, H, W) for one; where there
is one channel, also (N, H, W) or (H, W). Arrays are answered with arrays, and tensors with tensors on their device. A
ValueError says in one line what does not fit. The model computes where its weights are, in evaluation mode, without
gradients, some images at a time; afterwards it is in the mode that it was in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffbp.errors import ConfigError
from ffbp.models import Stack

MOST_IMAGES, MOST_LABELLED = 500, 5000
"""Shown together; the second is for images times classes, since Forward-Forward may show each with every label."""

Images = TypeVar("Images", Tensor, NDArray[Any])


class Answering(pl.LightningModule):
    """A stack that can be asked.

    A rule whose answer is not the stack's own logits overrides `readouts` or `answer`; one whose layers see something
    else than the stack's overrides `activities`; one that judges labels layer by layer overrides `goodness`. These take
    floats (B, C, H, W) as precise as the weights, on their device; the other methods take images of all kinds.
    """

    readout: str | None = None  # which of `readouts` is the answer; None for the stack's own logits

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.settings: dict[str, Any] = {}  # the run's own, kept in every checkpoint

    @property
    def class_names(self) -> list[str]:
        """What the classes are called, in the order of the logits: as the data set calls them, else by number."""
        return self.settings.get("class_names") or [str(k) for k in range(self.stack.classes)]

    # -- for rules

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        """Classify `images` (B, C, H, W) in several ways: names and logits (B, classes); {} if there is only one."""
        return {}

    def answer(self, images: Tensor) -> Tensor:
        """The logits that count, shape (B, classes), for `images` (B, C, H, W)."""
        return self.stack(images) if self.readout is None else self.readouts(images)[self.readout]

    def activities(self, images: Tensor) -> Iterator[Tensor]:
        """Yield each layer's activity, first to last, shape (B, D) or (B, C, H, W), for `images` (B, C, H, W)."""
        return self.stack.activities(images)

    def goodness(self, images: Tensor) -> list[Tensor]:
        """Each layer's goodness of each class, (B, classes), for `images` (B, C, H, W); a ConfigError without any."""
        raise ConfigError(
            "goodness: the layers of this run judge no labels; those of Forward-Forward with labels in its images and "
            "of class_groups do."
        )

    # -- for those who ask

    def predict(self, images: Images) -> Images:
        """Classify images.

        Args:
            images: shape (N, C, H, W), (C, H, W), or (N, H, W) or (H, W) where there is one channel; uint8, or floats
                in [0, 1].

        Returns:
            classes, shape (N,), int64.

        Raises:
            ValueError: if the shape, the type or the range does not fit.
        """
        return self._ask(images, lambda batch: [self.answer(batch).argmax(1)])[0]

    def forward(self, images: Images) -> Images:
        """Score images, see `predict`: the answer's logits, or the goodness where that is the answer, (N, classes).

        No gradients are kept; a rule calls `answer`.
        """
        return self._ask(images, lambda batch: [self.answer(batch)])[0]

    def probabilities(self, images: Images) -> Images:
        """The softmax over each image's scores, (N, classes), see `predict`.

        Only cross-entropy makes these the model's confidence. Of goodness they tell the order, and not how sure it is.
        """
        return self._ask(images, lambda batch: [self.answer(batch).float().softmax(1)])[0]

    def goodness_by_layer(self, images: Images) -> Images:
        """The goodness of each layer under each label, (N, layers, classes), see `predict`.

        Raises:
            ConfigError: if the layers judge no labels: neither Forward-Forward with labels in its images nor
                class_groups.
        """
        return self._ask(images, lambda batch: [torch.stack(self.goodness(batch), 1)])[0]

    def activities_by_layer(self, images: Images) -> list[Images]:
        """What each layer does, first to last, (N, units) or (N, C, H, W) each, see `predict`.

        Those of Forward-Forward are under the neutral label, as its softmax head sees them, but before they are
        normalised.
        """
        return self._ask(images, lambda batch: list(self.activities(batch)))

    def _ask(self, images: Images, question: Callable[[Tensor], list[Tensor]]) -> list[Images]:
        """The answers to all images, whose rows are images, as arrays or tensors like the images."""
        given, weight = _as_tensor(images), next(self.parameters())
        together = max(1, min(MOST_IMAGES, MOST_LABELLED // self.stack.classes))
        found = []
        with evaluating(self), torch.no_grad():
            for part in torch.split(self.stack.as_images(given), together):
                batch = self.stack.as_input(part).to(weight)
                found.append([answer.to(given.device) for answer in question(batch)])
        answers = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return answers if isinstance(images, Tensor) else [_as_array(answer) for answer in answers]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into the mode in which it was."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, before in training.items():
            part.training = before


def _as_tensor(images: Tensor | NDArray[Any]) -> Tensor:
    """Images as a tensor, which shares their memory where it can; a ValueError if they are no numbers."""
    if isinstance(images, Tensor):
        return images
    if not isinstance(images, np.ndarray):
        raise ValueError(f"images in a NumPy array or a tensor expected, {type(images).__name__} found")
    try:
        usable = images.flags.writeable and images.flags.c_contiguous and images.dtype.isnative
        return torch.from_numpy(images if usable else images.astype(images.dtype.newbyteorder("="), order="C"))
    except TypeError as error:  # of objects, texts, or a type that PyTorch does not have
        raise ValueError(f"uint8 images, or floats in [0, 1] expected, {images.dtype} found") from error


def _as_array(answer: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy()
    return array
