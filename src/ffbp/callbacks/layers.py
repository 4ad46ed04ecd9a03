"""What the layers of a network do with a few images: goodness, activities, and how well a linear read-out does."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from ffbp.algorithms import Algorithm, ForwardForward
from ffbp.algorithms.forward_forward.goodness import positions
from ffbp.algorithms.softhebb import SoftHebb
from ffbp.data import Batch
from ffbp.data.draws import Draws
from ffbp.data.sources import Labelled

CHUNK = 500  # images that are looked at together
MOST_FEATURES = 1024  # of maps, which are pooled; dense layers keep all
RIDGE = 1e-3  # of the mean square of a feature


@contextmanager
def looking(trainer: pl.Trainer, algorithm: Algorithm) -> Iterator[None]:
    """Look at a network as an evaluation does, whatever mode each part is in: no gradients, nothing compiled anew."""
    training = {module: module.training for module in algorithm.modules()}
    compiled = any(module._compiled_call_impl for module in training)
    algorithm.eval()
    try:
        with (
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
            torch.compiler.set_stance("force_eager") if compiled else nullcontext(),  # type: ignore[no-untyped-call]
        ):
            yield
    finally:
        for module, before in training.items():
            module.training = before


def a_batch(algorithm: Algorithm, part: Labelled, count: int) -> Batch:
    """The first `count` images of a part of the data, as a network takes them, with draws that are always the same."""
    weight = next(algorithm.parameters())
    images, labels = (tensor[:count].to(weight.device) for tensor in part)
    draws = Draws((0, 0, 0), len(labels), slice(0, len(labels)), weight.device)
    return Batch(images.to(weight.dtype) / 255, labels, draws)


def goodness_of_both(algorithm: ForwardForward, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each layer's goodness, as its loss judges it, of positives (P,) and of negatives (N,) of a batch."""
    passes, count = algorithm.passes, len(batch.labels)
    products = passes.first(batch.images)
    logits = algorithm.head(passes.features(products, algorithm.readout_layers))  # (B, classes)
    both = algorithm.contrast(batch, products, logits, passes)  # ((1 + N) * B, ...)
    for loss, activity in zip(algorithm.layer_losses, passes.activities(both), strict=True):
        goodness = loss.goodness(positions(activity) if loss.per_position else activity)
        goodness = goodness.view(len(activity) // count, -1)
        yield goodness[0].float(), goodness[1:].flatten().float()


def threshold_of(algorithm: ForwardForward, layer: int) -> float | None:
    """The goodness that divides positives from negatives; None for the margin objective, which has none."""
    return cast(float | None, algorithm.layer_losses[layer].objective.keywords.get("threshold"))


def goodness_of_labels(algorithm: ForwardForward, images: Tensor) -> Tensor:
    """The goodness of the first image of (B, C, H, W) under every label in every layer, shape (layers, classes)."""
    products = algorithm.passes.first(images[:1])
    labelled = (products.images.unsqueeze(1) + products.labels).flatten(0, 1)  # (classes, ...)
    by_layer = zip(algorithm.layer_losses, algorithm.passes.activities(labelled), strict=True)
    return torch.stack([loss.goodness(activity) for loss, activity in by_layer]).float().cpu()


def features(algorithm: Algorithm, images: Tensor) -> list[Tensor]:
    """What a linear read-out would see of each layer, shapes (B, features): maps are pooled to `MOST_FEATURES`."""
    if isinstance(algorithm, ForwardForward):
        first = algorithm.passes.first(images)
        neutral = first.images + first.labels.sum(0) / algorithm.stack.classes
        activities = [algorithm.passes.seen_above(activity) for activity in algorithm.passes.activities(neutral)]
    else:
        whose = algorithm if isinstance(algorithm, SoftHebb) else algorithm.stack
        activities = list(whose.activities(images))
    return [_pooled(activity).float() for activity in activities]


def _pooled(activity: Tensor) -> Tensor:
    if activity.dim() == 2:
        return activity
    channels, *sides = activity.shape[1:]
    side = min(*sides, max(1, int((MOST_FEATURES / channels) ** 0.5)))
    return adaptive_avg_pool2d(activity, side).flatten(1)


def readout_accuracies(algorithm: Algorithm, training: Labelled, validation: Labelled, count: int) -> list[float]:
    """How many validation images a linear read-out of each layer gets right, first to last, in [0, 1].

    The read-outs are solved for by ridge regression on `count` training images, and measured on at most half as many
    validation images. Nothing is trained, so that it can be asked of any rule at any time.
    """
    fitted, measured = a_batch(algorithm, training, count), a_batch(algorithm, validation, count // 2)
    sides = []
    for batch in (fitted, measured):
        chunks = [features(algorithm, chunk) for chunk in batch.images.split(CHUNK)]
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
        return (other - mean) @ weights + bias
