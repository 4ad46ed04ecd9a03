"""What the layers of a network do with a few images: goodness, activities, and how well a linear read-out does."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from ffbp.algorithms import Algorithm, ForwardForward
from ffbp.algorithms.answering import evaluating
from ffbp.algorithms.local_loss import pooled_side
from ffbp.data import Batch
from ffbp.data.draws import Draws
from ffbp.data.sources import Labelled

CHUNK = 500  # images of which activities are kept at a time
BATCH = 100  # images that are shown together, as in a training
MOST_FEATURES = 1024  # of maps, which are pooled; dense layers keep all
RIDGE = 1e-3  # of the mean square of a feature


@contextmanager
def looking(trainer: pl.Trainer, algorithm: Algorithm) -> Iterator[None]:
    """Look at a network as an evaluation does, whatever mode each part is in: no gradients, nothing compiled anew."""
    compiled = any(module._compiled_call_impl for module in algorithm.modules())
    with (
        evaluating(algorithm),
        torch.no_grad(),
        trainer.precision_plugin.val_step_context(),
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
    ):
        yield


def a_batch(algorithm: Algorithm, part: Labelled, first: int, count: int) -> Batch:
    """Images of a part of the data, as a network takes them, with random numbers that are always the same."""
    weight, rows = next(algorithm.parameters()), slice(first, first + count)
    images, labels = (tensor[rows].to(weight.device) for tensor in part)
    draws = Draws((0, 0, first), len(labels), slice(0, len(labels)), weight.device)
    return Batch(images.to(weight.dtype) / 255, labels, draws)


def goodness_of_both(algorithm: ForwardForward, part: Labelled, count: int) -> list[tuple[Tensor, Tensor]]:
    """Each layer's goodness, as its loss judges it, of positives, (P,), and of their N negatives, (N, P).

    P is the number of images, the first `count` of a part of the data, or of images and positions.
    """
    count = min(count, len(part.labels))
    batches = [a_batch(algorithm, part, first, min(BATCH, count - first)) for first in range(0, count, BATCH)]
    of_batches = [list(_goodness_of_both(algorithm, batch)) for batch in batches]
    both = [torch.cat(layer, 1) for layer in zip(*of_batches, strict=True)]  # each (1 + N, P)
    return [(goodness[0], goodness[1:]) for goodness in both]


def _goodness_of_both(algorithm: ForwardForward, batch: Batch) -> Iterator[Tensor]:
    passes, count = algorithm.passes, len(batch.labels)
    products = passes.first(batch.images)
    logits = algorithm.head(passes.features(products, algorithm.readout_layers))  # (B, classes)
    both = passes.activities(*algorithm.contrast(batch, products, logits, passes))  # each ((1 + N) * B, ...)
    for loss, activity in zip(algorithm.layer_losses, both, strict=True):
        goodness = loss.goodness(activity, loss.per).view(len(activity) // count, -1)
        yield goodness.float()  # (1 + N, B), or images and positions


def threshold_of(algorithm: ForwardForward, layer: int) -> float | None:
    """The goodness that divides positives from negatives; None for the margin objective, which has none."""
    return cast(float | None, algorithm.layer_losses[layer].objective.keywords.get("threshold"))


def goodness_of_labels(algorithm: ForwardForward, images: Tensor) -> Tensor:
    """The goodness of the first image of (B, C, H, W) under every label in every layer, shape (layers, classes)."""
    return torch.cat(algorithm.goodness(images[:1])).float().cpu()


def features(algorithm: Algorithm, images: Tensor) -> list[Tensor]:
    """What a linear read-out would see of each layer, shapes (B, features): maps are pooled to `MOST_FEATURES`."""
    activities = algorithm.activities(images)
    if isinstance(algorithm, ForwardForward):
        activities = map(algorithm.passes.seen_above, activities)
    return [_pooled(activity).float() for activity in activities]


def _pooled(activity: Tensor) -> Tensor:
    if activity.dim() == 2:
        return activity
    return adaptive_avg_pool2d(activity, pooled_side(activity.shape[1:], MOST_FEATURES)).flatten(1)


def readout_accuracies(algorithm: Algorithm, training: Labelled, validation: Labelled, count: int) -> list[float]:
    """How many validation images a linear read-out of each layer gets right, first to last, in [0, 1].

    The read-outs are solved for by ridge regression on `count` training images, and measured on at most half as many
    validation images. Nothing is trained, so that it can be asked of any rule at any time.
    """
    fitted, measured = a_batch(algorithm, training, 0, count), a_batch(algorithm, validation, 0, count // 2)
    sides = []
    for batch in (fitted, measured):
        chunks = [features(algorithm, chunk) for chunk in torch.split(batch.images, CHUNK)]
        sides.append([torch.cat(layer) for layer in zip(*chunks, strict=True)])  # each (B, features)
    targets = one_hot(fitted.labels, algorithm.stack.classes).float()
    return [
        float((ridge_logits(x, targets, other).argmax(1) == measured.labels).float().mean())
        for x, other in zip(*sides, strict=True)
    ]


def ridge_logits(x: Tensor, targets: Tensor, other: Tensor) -> Tensor:
    """Fit x (N, D) to targets (N, classes) by ridge regression with a bias; its answers to other (M, D)."""
    with torch.autocast(x.device.type, enabled=False):
        mean, bias = x.mean(0), targets.mean(0)
        x = x - mean
        gram = x.T @ x  # (D, D)
        gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-6)
        weights, _ = torch.linalg.solve_ex(gram, x.T @ (targets - bias))  # (D, classes)
        answers: Tensor = (other - mean) @ weights + bias
        return answers
