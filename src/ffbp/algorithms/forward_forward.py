"""Forward-Forward: two forward passes, and each layer learns from nothing but its own activity."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from ffbp.algorithms.base import Algorithm
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.forward_forward import labels as label_embeddings
from ffbp.forward_forward.goodness import GOODNESS, NORMALIZATION
from ffbp.forward_forward.negatives import hard_negatives, uniform_negatives
from ffbp.forward_forward.objectives import linear, logistic, margin
from ffbp.models import Block, Stack
from ffbp.settings import HeadSettings, OptimizerSettings, Positive, Schedule, checked


class ForwardForward(Algorithm):
    """Train each layer alone to have high goodness on real images with their true label, low with a false one.

    No gradient crosses a layer: what the next one sees is detached. One optimizer has a parameter group for each
    layer and one for the softmax head, so that a batch is one step. The stack's own head is taken off.

    Args:
        stack: whose blocks are trained.
        optimizer: how parameters move; `lr` may be a list, one for each layer.
        head: learning rate and weight decay of the softmax read-out.
        schedule: how the learning rates change over the training.
        negatives: where false labels come from: drawn uniformly, or from the softmax head's own mistakes.
        objective: what a layer minimises, see `forward_forward.objectives`.
        alpha: steepness of the margin objective.
        goodness: of an activity, see `forward_forward.goodness`.
        threshold: of the logistic and linear objectives, for each unit: sum_square multiplies it by their number.
        normalization: of what is passed on between layers.
        label_embedding: how an image carries a label; None for overlay where the first layer is dense, fourier where
            it is convolutional.
        label_strength: amplitude of fourier's waves.
        readout: which answer counts: the label with the highest goodness, or the softmax head's.
        readout_layers: which layers both read-outs use: all, or, as Hinton does, all but the first where there are
            several.
        order: all layers learn from every batch, or one after the other for an equal share of the training.

    Source: Hinton 2022, arXiv:2212.13345.
    """

    automatic_optimization = False
    readout_names = ("goodness", "softmax")

    @checked
    def __init__(
        self,
        stack: Stack,
        *,
        optimizer: OptimizerSettings,
        head: HeadSettings,
        schedule: Schedule,
        negatives: Literal["uniform", "hard"],
        objective: Literal["logistic", "margin", "linear"],
        alpha: Positive,
        goodness: Literal["sum_square", "mean_square"],
        threshold: Positive,
        normalization: Literal["rms", "l2"],
        label_embedding: Literal["overlay", "fourier"] | None,
        label_strength: Positive,
        readout: Literal["goodness", "softmax"],
        readout_layers: Literal["all", "later"],
        order: Literal["simultaneous", "sequential"],
    ) -> None:
        measured = ("loss", "goodness_pos", "goodness_neg", "separation")
        names = [f"ff/layer_{k}/{what}" for k in range(len(stack.blocks)) for what in measured]
        super().__init__(stack, optimizer=optimizer, schedule=schedule, measures=names)
        self.head_settings, self.readout, self.order = head, readout, order
        self.parameters_rest = order == "sequential"
        self.negatives, self.objective, self.alpha, self.threshold = negatives, objective, alpha, threshold
        self.goodness, self.normalize = GOODNESS[goodness], NORMALIZATION[normalization]
        self.embedding = _embedding(label_embedding, stack, label_strength)
        depth, sizes = len(stack.blocks), stack.activity_sizes()
        self.read_from = 1 if readout_layers == "later" and depth > 1 else 0
        # thresholds are per unit; a sum over a layer's units has as many of them
        self.thresholds = [threshold * (size if goodness == "sum_square" else 1) for size in sizes]
        assert stack.head is not None
        self.head = Block(nn.Linear(sum(sizes[self.read_from :]), stack.classes), dropout=stack.head.dropout.p)
        stack.head = None
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    # -- the forward passes

    def first_products(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the first layer's weights once for all labels.

        The embedding is affine and so is the product: W embed(x, w) + b = (W blank(x) + b) + sum_c w_c W P_c.
        The patterns P_c ride along as further rows of the batch.

        Args:
            images: shape (B, C, H, W).

        Returns:
            the product of the images without a label, shape (B, ...), and what each label adds, (classes, ...).
        """
        first, count = self.stack.blocks[0], len(images)
        rows = torch.cat([images, self.embedding.patterns])  # (B + classes, C, H, W)
        self.embedding.blank_(rows[:count])
        if self.training and first.dropout.p:
            rows[:count] = first.dropout(rows[:count])
        product = first.product(rows)  # (B + classes, ...)
        bias = cast(Tensor, first.affine.bias).view(-1, *[1] * (product.dim() - 2))
        return product[:count], product[count:] - bias

    def activities(self, product: Tensor) -> Iterator[Tensor]:
        """Run the layers above a first product (B, ...), giving each one's activity (B, ...).

        Whatever graph there is ends at each layer: the next one sees detached, normalised activity.
        """
        activity = self.stack.blocks[0].after(product)
        yield activity
        for block in self.stack.blocks[1:]:
            activity = block(self.normalize(activity.detach()))
            yield activity

    @torch.no_grad()
    def features(self, products: tuple[Tensor, Tensor]) -> Tensor:
        """Normalised activities under the neutral label, those of all read-out layers side by side: (B, features)."""
        neutral = products[0] + products[1].mean(0)
        activities = list(self.activities(neutral))[self.read_from :]
        features = [self.normalize(activity).flatten(1) for activity in activities]
        return features[0] if len(features) == 1 else torch.cat(features, 1)

    # -- learning

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """The loss of the head and of each layer that learns, one after the other, and record them.

        Each reaches the parameters of its own layer and no others. They come one at a time so that a layer's graph
        can be freed, by its backward pass, before the next layer's is built.
        """
        products = self.first_products(batch.images)
        logits = self.head(self.features(products))  # (B, classes)
        head_loss = cross_entropy(logits, batch.labels)
        yield head_loss

        images_part, labels_part = products
        labels = torch.stack([batch.labels, self.false_labels(batch, logits.detach())])  # (2, B), positives first
        patterns = embedding(labels, labels_part.flatten(1)).view(2, *images_part.shape)
        both = (images_part + patterns).flatten(0, 1)  # (2B, ...)
        measures = []
        for k, activity in enumerate(self.activities(both)):
            goodness = self.goodness(activity).view(2, -1)  # (2, B)
            loss = self.layer_loss(k, goodness)
            if self.learns(k):
                yield loss
            separation = (goodness[0] > goodness[1]).float().mean()
            measures += [loss, *goodness.mean(1), separation]
        self.record(logits, batch.labels, head_loss, measures)

    def false_labels(self, batch: Batch, logits: Tensor) -> Tensor:
        """A false label for each image, shape (B,), never its own."""
        if self.negatives == "hard":
            return hard_negatives(batch.labels, logits, batch.draws.uniform(self.stack.classes))
        return uniform_negatives(batch.labels, self.stack.classes, batch.draws.uniform())

    def layer_loss(self, k: int, goodness: Tensor) -> Tensor:
        """The objective of layer k, a scalar, on the goodness of positives and negatives, shape (2, B)."""
        positive, negative = goodness
        if self.objective == "margin":
            return margin(positive, negative, self.alpha)
        objective = logistic if self.objective == "logistic" else linear
        return objective(positive, negative, self.thresholds[k])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        if self.trainer.world_size == 1 and len(self.stack.blocks) > 1:
            for loss in self.losses(batch):
                self.manual_backward(loss)  # which frees this layer's graph
        else:  # several processes exchange gradients once; a single layer has no other to make room for
            self.manual_backward(torch.stack(list(self.losses(batch))).sum() * batch.share)
        optimizer.step()

    def on_train_start(self) -> None:
        super().on_train_start()
        epochs, depth = self.trainer.max_epochs, len(self.stack.blocks)
        if self.order == "sequential" and epochs is not None and 0 < epochs < depth:
            raise ConfigError(
                f"trainer.max_epochs={epochs}: {depth} or more expected, an epoch for each layer in turn."
            )

    def learns(self, k: int) -> bool:
        """Whether layer k learns now: always, or in its own share of the training."""
        return self.order == "simultaneous" or 0 <= self.layer_progress(k, self.elapsed) < 1

    def layer_progress(self, k: int, elapsed: float) -> float:
        """How far layer k is through its own share of a sequential training: below 0 before it, 1 and more after."""
        return elapsed * len(self.stack.blocks) - k

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        if self.order == "simultaneous" or group["layer"] is None:
            return elapsed
        return min(1.0, max(0.0, self.layer_progress(group["layer"], elapsed)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        rates, depth = self.optimizer_settings.lr, len(self.stack.blocks)
        if not isinstance(rates, list):
            rates = [rates] * depth
        if len(rates) != depth:
            raise ConfigError(f"algo.optimizer.lr={rates}: one number or {depth} expected, one for each layer.")
        layers = [
            {"name": f"layer_{k}", "layer": k, "params": list(block.parameters()), "lr": rate}
            for k, (block, rate) in enumerate(zip(self.stack.blocks, rates, strict=True))
        ]
        head = {
            "name": "head",
            "layer": None,
            "params": list(self.head.parameters()),
            **self.head_settings.model_dump(),
        }
        return [*layers, head]

    # -- answering

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        products = self.first_products(images)
        return {"goodness": self.label_goodness(products), "softmax": self.head(self.features(products))}

    def answer(self, images: Tensor) -> Tensor:
        products = self.first_products(images)
        return self.label_goodness(products) if self.readout == "goodness" else self.head(self.features(products))

    def label_goodness(self, products: tuple[Tensor, Tensor]) -> Tensor:
        """The goodness of each image under each label, summed over the read-out layers: shape (B, classes)."""
        images_part, labels_part = products
        every = (images_part.unsqueeze(1) + labels_part).flatten(0, 1)  # (B * classes, ...)
        layers = [self.goodness(activity) for activity in self.activities(every)]
        total = torch.stack(layers[self.read_from :]).sum(0)  # (B * classes,)
        return total.view(len(images_part), len(labels_part))


def _embedding(
    name: Literal["overlay", "fourier"] | None, stack: Stack, strength: float
) -> label_embeddings.LabelEmbedding:
    if name is None:
        name = "overlay" if stack.blocks[0].dense else "fourier"
    if name == "fourier":
        return label_embeddings.fourier(stack.image_shape, stack.classes, strength)
    try:
        return label_embeddings.overlay(stack.image_shape, stack.classes)
    except ValueError as error:
        raise ConfigError(f"algo.{error}.") from error
