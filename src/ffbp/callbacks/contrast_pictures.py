"""Pictures of Forward-Forward's contrast: what is shown to the first layer, and what goodness comes of it."""

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from ffbp.algorithms import ForwardForward
from ffbp.callbacks.answers import shown_colors
from ffbp.callbacks.drawing import Picture, Spread, heat_map, spreads_picture, tiles
from ffbp.callbacks.layers import goodness_of_both, goodness_of_labels, threshold_of
from ffbp.data import Batch, Labelled

SHOWN = 8  # images
BINS = 36  # of a histogram


class Examples:
    """The first images of a training as they are shown: what the batch is is noted before its step, and drawn after.

    Args:
        batch: the first of a training; its random numbers are copied, so that the step draws the same.
    """

    def __init__(self, batch: Batch) -> None:
        draws = copy.copy(batch.draws)
        draws.generator = draws.generator.clone_state() if draws.generator is not None else None
        self.batch = batch._replace(draws=draws)

    def picture(self, algorithm: ForwardForward) -> Picture:
        """Draw positives, negatives and neutral images; false labels are those that an untrained softmax head gives."""
        contrast, batch = algorithm.contrast, self.batch
        images, labels = batch.images, batch.labels[:SHOWN]
        columns, kind = len(labels), contrast.kind
        if not contrast.shows_labels:
            shown = torch.cat([images[:SHOWN], contrast.false_images(batch)[:SHOWN]])
            captions = [f"a {label}" for label in labels.tolist()] + [kind] * columns
            title = "Positives are the images, negatives show no digit"
            return tiles(title, shown_colors(shown), captions, columns=columns, rows=("positive", "negative"))
        classes = algorithm.stack.classes
        false = contrast.false_labels(batch, images.new_zeros(len(images), classes))  # (N, B)
        weights = [one_hot(labels, classes).to(images), one_hot(false[0, :SHOWN], classes).to(images)]
        weights.append(torch.full_like(weights[0], 1 / classes))
        shown = torch.cat([algorithm.embedding(images[:SHOWN], weight) for weight in weights])
        captions = [f"{label} as {label}" for label in labels.tolist()]
        pairs = zip(labels.tolist(), false[0].tolist(), strict=False)
        captions += [f"{label} as {wrong}" for label, wrong in pairs]
        captions += [f"{label} as all" for label in labels.tolist()]
        more = f", each image with {len(false)} of them" if len(false) > 1 else ""
        title = f"True labels are positives, false ones negatives ({kind}{more})"
        rows = ("positive", "negative", "neutral")
        return tiles(title, labelled_colors(shown, images.shape[1]), captions, columns=columns, rows=rows)


def labelled_colors(shown: Tensor, channels: int) -> Tensor:
    """Images with labels, (B, C', H, W), as (B, C, H', W) in [0, 1]: channels that a label adds are a strip below.

    What a label takes below 0, such as waves, makes all that is grey lighter.
    """
    low = shown.amin().clamp_max(0)
    shown = (shown - low) / (1 - 2 * low)
    images, planes = shown_colors(shown[:, :channels]), shown[:, channels:]
    if not planes.shape[1]:
        return images
    height, width = max(1, images.shape[2] // 9), images.shape[3]
    strip = interpolate(planes.mean((2, 3))[:, None, None].float(), size=(height, width))  # (B, 1, height, W)
    gap = torch.full_like(strip[:, :, :1], 0.5)
    below = torch.cat([gap, strip], 2).expand(-1, images.shape[1], -1, -1)
    return torch.cat([images.float(), below], 2)


def add_spreads(
    earlier: list[list[Spread]], algorithm: ForwardForward, part: Labelled, images: int, epoch: int
) -> list[list[Spread]]:
    """The histograms of each layer's goodness in earlier epochs, and after them those of the first `images` today."""
    both = enumerate(goodness_of_both(algorithm, part, images))
    today = [
        spread(epoch, *_judged(positive, negative, threshold_of(algorithm, k))) for k, (positive, negative) in both
    ]
    if len(earlier) != len(today):
        earlier = [[] for _ in today]
    return [[*(row for row in rows if row.epoch < epoch), added] for rows, added in zip(earlier, today, strict=True)]


def spreads_of_layer(algorithm: ForwardForward, k: int, spreads: list[Spread]) -> Picture:
    """Draw how goodness was distributed over the epochs in layer k: the first epoch, and at most eleven others."""
    threshold = threshold_of(algorithm, k)
    names = (
        "the margin objective compares them image by image",
        "goodness, less the mean of the image's positive and negatives",
    )
    if threshold is not None:
        names = (f"threshold {threshold:.4g}", "goodness")
    title = f"Layer {k}: goodness of training images"
    return spreads_picture(title, [*spreads[:1], *spreads[1:][-11:]], threshold or 0.0, names)


def _judged(positive: Tensor, negative: Tensor, threshold: float | None) -> tuple[Tensor, Tensor]:
    """Goodness as the objective judges it: as it is, or without a threshold, less the mean of positive and negative.

    `positive` has shape (P,), `negative` (N, P): the margin objective compares an image's negatives with its positive.
    """
    even = 0.0 if threshold is not None else (positive + negative.mean(0)) / 2
    return positive - even, (negative - even).flatten()


def spread(epoch: int, positive: Tensor, negative: Tensor) -> Spread:
    """The histograms of positive (P,) and negative goodness (N,), as shares, over the same bins."""
    sides = [side.cpu().nan_to_num(posinf=1e30).clamp_max(1e30).double().numpy() for side in (positive, negative)]
    low, high = min(side.min() for side in sides), max(side.max() for side in sides)
    high = high if high > low else low + 1e-6
    shares = [np.histogram(side, BINS, (low, high))[0] / len(side) for side in sides]
    return Spread(epoch, float(low), float(high), *(share.tolist() for share in shares))


def labels_picture(algorithm: ForwardForward, batch: Batch, epoch: int) -> Picture:
    """Draw the goodness of a batch's first image under every label in every layer; a row's shades are its own."""
    goodness = goodness_of_labels(algorithm, batch.images).double().nan_to_num()  # (layers, classes)
    rows = [f"layer {k}" for k in range(len(goodness))]
    if len(chosen := algorithm.readout_layers) > 1:
        goodness = torch.cat([goodness, goodness[chosen].sum(0, keepdim=True)])
        rows.append(f"sum of {', '.join(map(str, chosen))}")
    low, high = goodness.amin(1, keepdim=True), goodness.amax(1, keepdim=True)
    shades = (goodness - low) / (high - low).clamp_min(1e-12)
    label = int(batch.labels[0])
    return heat_map(
        f"Goodness of one {label} under each label, " + (f"epoch {epoch}" if epoch else "untrained"),
        shades.numpy(),
        [[f"{value:.3g}" for value in row] for row in goodness.tolist()],
        rows=rows,
        columns=[str(k) for k in range(goodness.shape[1])],
        heads=("", "label that is shown"),
        marked=label,
        image=shown_colors(batch.images[:1]),
    )
