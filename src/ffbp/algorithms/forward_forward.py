"""Forward-Forward: two forward passes, and each layer learns from nothing but its own activity."""

from collections.abc import Generator, Iterator, Mapping
from math import prod
from typing import Any, Literal, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, embedding

from ffbp.algorithms.base import Algorithm
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.forward_forward import labels as label_embeddings
from ffbp.forward_forward.goodness import GOODNESS, NORMALIZATION, positions
from ffbp.forward_forward.negatives import (
    LABEL_NEGATIVES,
    all_negatives,
    hard_negatives,
    hybrids,
    region_masks,
    scrambled,
    uniform_negatives,
)
from ffbp.forward_forward.objectives import linear, logistic, margin
from ffbp.forward_forward.peers import PeerNormalization
from ffbp.models import Block, Stack
from ffbp.settings import (
    CountOrNone,
    HeadSettings,
    NonNegative,
    OptimizerSettings,
    Positive,
    Probability,
    Schedule,
    checked,
)

LabelEmbeddingName = Literal["overlay", "channels", "fourier"]


class ForwardForward(Algorithm):
    """Train each layer alone to have high goodness on positive data, low goodness on negative data.

    Positive data are real images with their true label written into them. Negatives are the same images with a false
    label; or, for learning without labels, images that show no digit, and then the softmax head alone ever sees a
    label. No gradient crosses a layer: what the next one sees is detached. One optimizer has a parameter group for
    each layer and one for the softmax head, so that a batch is one step. The stack's own head is taken off.

    Args:
        stack: whose blocks are trained.
        optimizer: how parameters move; `lr` may be a list, one for each layer.
        head: learning rate, weight decay and dropout of the softmax read-out; a dropout of None is the model's.
        schedule: how the learning rates change over the training.
        negatives: false labels, drawn uniformly, or from the softmax head's own mistakes, or all of them; or images
            without a label, hybrids of two or scrambled to noise.
        objective: what a layer minimises, see `forward_forward.objectives`.
        alpha: steepness of the margin objective.
        goodness: of an activity, see `forward_forward.goodness`.
        goodness_per: whether the objective judges a layer as a whole, or each position of its maps by itself.
        threshold: of the logistic and linear objectives, for each unit: sum_square multiplies it by their number.
        normalization: of what is passed on between layers, over the units, or the channels at each position.
        peer_normalization: Hinton's form, the port's, or None, see `forward_forward.peers`.
        peer_weight: of peer normalisation, relative to a sum_square goodness; a mean_square one divides it by the
            number of activities.
        peer_momentum: of its running means.
        label_embedding: how an image carries a label; None for overlay where the first layer is dense, fourier where
            it is not.
        label_strength: brightness of a label, where white is 1; None for 0.35 for fourier's waves, 1 for others.
        readout: which answer counts: the label with the highest goodness, or the softmax head's.
        readout_layers: which layers both read-outs use: all, or, as Hinton does, all but the first where there are
            several, or a list of their numbers, from 0.
        readout_share: for what share of the training, at its end, the layers rest and the softmax head alone learns;
            0: the head learns beside the layers.
        order: all layers learn from every batch, or one after the other for an equal share of the training.

    Raises:
        ConfigError: if two settings exclude each other.

    Source: Hinton 2022, arXiv:2212.13345.
    """

    automatic_optimization = False

    @checked
    def __init__(
        self,
        stack: Stack,
        *,
        optimizer: OptimizerSettings,
        head: HeadSettings,
        schedule: Schedule,
        negatives: Literal["uniform", "hard", "all", "hybrid", "noise"],
        objective: Literal["logistic", "margin", "linear"],
        alpha: Positive,
        goodness: Literal["sum_square", "mean_square"],
        goodness_per: Literal["layer", "position"],
        threshold: Positive,
        normalization: Literal["rms", "l2"],
        peer_normalization: Literal["hinton", "port"] | None,
        peer_weight: NonNegative,
        peer_momentum: Probability,
        label_embedding: LabelEmbeddingName | None,
        label_strength: Positive | None,
        readout: Literal["goodness", "softmax"],
        readout_layers: Literal["all", "later"] | list[CountOrNone],
        readout_share: Probability,
        order: Literal["simultaneous", "sequential"],
    ) -> None:
        self.supervised = negatives in LABEL_NEGATIVES
        _exclude(self.supervised, negatives, readout, label_embedding, readout_share)
        self.readout_names = ("goodness", "softmax") if self.supervised else ("softmax",)
        measured = ("loss", "goodness_pos", "goodness_neg", "separation")
        names = [f"ff/layer_{k}/{what}" for k in range(len(stack.blocks)) for what in measured]
        super().__init__(stack, optimizer=optimizer, schedule=schedule, measures=names)
        self.head_settings, self.readout, self.readout_share, self.order = head, readout, readout_share, order
        self.parameters_rest = order == "sequential" or readout_share > 0
        self.negatives, self.objective, self.alpha = negatives, objective, alpha
        self.goodness, self.goodness_per = GOODNESS[goodness], goodness_per
        self.normalize = NORMALIZATION[normalization]

        shapes = stack.activity_shapes()
        # the number of activities in one goodness: thresholds are per unit, and a sum has as many of them
        counted = [prod(shape) if goodness_per == "layer" else shape[0] for shape in shapes]
        scales = counted if goodness == "sum_square" else [1] * len(shapes)
        self.thresholds = [threshold * scale for scale in scales]
        self.peers = nn.ModuleList()
        if peer_normalization is not None:
            self.peers.extend(
                PeerNormalization(
                    units, peer_normalization, weight=peer_weight * scale / prod(shape), momentum=peer_momentum
                )
                for units, scale, shape in zip(stack.unit_shapes(), scales, shapes, strict=True)
            )

        self.read_layers = _read_layers(readout_layers, len(shapes))
        features = sum(prod(shapes[k]) for k in self.read_layers)
        assert stack.head is not None
        dropout = stack.head.dropout.p if head.dropout is None else head.dropout
        self.head = Block(nn.Linear(features, stack.classes), dropout=dropout)
        stack.head = None
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.embedding = _embedding(label_embedding, stack, label_strength, self.supervised)

    # -- the forward passes

    def first_products(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the first layer's weights once for all labels.

        The embedding is affine and so is the product: W embed(x, w) = W blank(x) + sum_c w_c W P_c. The patterns P_c
        ride along as further rows of the batch, and a row of zeros, whose product is the bias alone.

        Args:
            images: shape (B, C, H, W).

        Returns:
            the product of the images without a label, shape (B, ...), and what each label adds, (classes, ...), or
            (0, ...) where no labels are shown.
        """
        first, count = self.stack.blocks[0], len(images)
        rows = self.embedding.rows(images)  # (B + classes + 1, C, H, W)
        if self.training and first.dropout.p:
            rows[:count] = first.dropout(rows[:count])
        product = first.product(rows)  # (B + classes + 1, ...)
        return product[:count], product[count:-1] - product[-1:]

    def product(self, k: int, below: Tensor) -> Tensor:
        """The product of layer k, not the first, with the activity below it, (B, ...): detached and normalised."""
        block = self.stack.blocks[k]
        return block.product(block.dropout(self.normalize(below.detach())))

    def activities(self, product: Tensor) -> Iterator[Tensor]:
        """Run the layers above a first product (B, ...), giving each one's activity (B, ...)."""
        activity = product
        for k, block in enumerate(self.stack.blocks):
            activity = block.after(self.product(k, activity) if k else product)
            yield activity

    @torch.no_grad()
    def features(self, products: tuple[Tensor, Tensor]) -> Tensor:
        """Normalised activities under the neutral label, those of all read-out layers side by side: (B, features)."""
        neutral = products[0] + products[1].sum(0) / self.stack.classes
        activities = list(self.activities(neutral))
        features = [self.normalize(activities[k]).flatten(1) for k in self.read_layers]
        return features[0] if len(features) == 1 else torch.cat(features, 1)

    # -- learning

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """The loss of the head and of each layer, of those that learn now, one after the other, and record them.

        Each reaches the parameters of its own layer and no others. They come one at a time so that a layer's graph
        can be freed, by its backward pass, before the next layer's is built.
        """
        count, labels = len(batch.labels), batch.labels
        with torch.set_grad_enabled(self.learns(0)):
            products = self.first_products(batch.images)
        head_learns = self.learns(None)
        # a head that has not learnt yet is zero, and so are its logits
        logits = (
            self.head(self.features(products)) if head_learns else batch.images.new_zeros(count, self.stack.classes)
        )
        head_loss = cross_entropy(logits, labels)
        if head_learns:
            yield head_loss
        layers_learn = any(self.learns(k) for k in range(len(self.stack.blocks)))
        measures = (yield from self.layer_losses(batch, products, logits.detach())) if layers_learn else []
        self.record(logits, labels, head_loss, measures)

    def layer_losses(
        self, batch: Batch, products: tuple[Tensor, Tensor], logits: Tensor
    ) -> Generator[Tensor, None, list[Tensor]]:
        """The loss of each layer that learns now; and, in the end, what is measured of all of them."""
        count = len(batch.labels)
        measures = []
        activity = batch.images
        for k, block in enumerate(self.stack.blocks):
            with torch.set_grad_enabled(self.learns(k)):
                product = self.product(k, activity) if k else self.contrast(batch, products, logits)
                drive = product[:count].mean(0) if self.peers else None  # before an activation in place changes it
                activity = block.after(product)  # ((1 + N) * B, ...), positives first
                judged = positions(activity) if self.goodness_per == "position" else activity
                goodness = self.goodness(judged).view(len(activity) // count, -1)  # (1 + N, B or B * positions)
                loss = self.layer_loss(k, goodness)
            if self.learns(k):
                yield loss if drive is None else loss + self.peer_term(k, drive, activity[:count], batch.share)
            separation = (goodness[:1] > goodness[1:]).float().mean()
            measures += [loss, goodness[0].mean(), goodness[1:].mean(), separation]
        return measures

    def contrast(self, batch: Batch, products: tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
        """The first layer's products with the positives and, below them, N negatives of each: ((1 + N) * B, ...)."""
        images_part, labels_part = products
        if not self.supervised:
            return torch.cat([images_part, self.first_products(self.false_images(batch))[0]])
        labels = torch.cat([batch.labels.unsqueeze(0), self.false_labels(batch, logits)])  # (1 + N, B)
        patterns = embedding(labels, labels_part.flatten(1)).view(len(labels), *images_part.shape)
        return (images_part + patterns).flatten(0, 1)

    def false_labels(self, batch: Batch, logits: Tensor) -> Tensor:
        """False labels for each image, shape (N, B), never its own."""
        classes = self.stack.classes
        if self.negatives == "all":
            return all_negatives(batch.labels, classes)
        if self.negatives == "hard":
            return hard_negatives(batch.labels, logits, batch.draws.uniform(classes)).unsqueeze(0)
        return uniform_negatives(batch.labels, classes, batch.draws.uniform()).unsqueeze(0)

    def false_images(self, batch: Batch) -> Tensor:
        """Images like those of the batch, shape (B, C, H, W), that show no digit."""
        _, height, width = self.stack.image_shape
        if self.negatives == "hybrid":
            return hybrids(batch.images, region_masks(batch.draws.uniform(height, width)))
        return scrambled(batch.images, batch.draws.uniform(height * width))

    def layer_loss(self, k: int, goodness: Tensor) -> Tensor:
        """The objective of layer k, a scalar, on goodness (1 + N, B), the positives' in the first row."""
        positive, negative = goodness[:1], goodness[1:]
        if self.objective == "margin":
            return margin(positive, negative, self.alpha)
        objective = logistic if self.objective == "logistic" else linear
        return objective(positive, negative, self.thresholds[k])

    def peer_term(self, k: int, drive: Tensor, activity: Tensor, share: float) -> Tensor:
        """Layer k's term of peer normalisation, on the positives' activity (B, ...), all processes' together."""
        seen = activity.detach().float().mean(0)
        if distributed.is_initialized():
            distributed.all_reduce(seen.mul_(share / distributed.get_world_size()))
        term: Tensor = self.peers[k](drive, seen)
        return term

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
        if self.total_steps == float("inf") and (self.order == "sequential" or self.readout_share):
            raise ConfigError(
                "algo.order=sequential and algo.readout_share: share out the training, which needs an end; set "
                "trainer.max_epochs or max_steps."
            )
        if self.order == "sequential" and epochs is not None and 0 < epochs < depth:
            raise ConfigError(
                f"trainer.max_epochs={epochs}: {depth} or more expected, an epoch for each layer in turn."
            )

    def learns(self, layer: int | None) -> bool:
        """Whether a layer learns now, or, for None, the head."""
        return 0 <= self.own_progress(layer, self.elapsed) < 1

    def own_progress(self, layer: int | None, elapsed: float) -> float:
        """How far a layer, or, for None, the head, is through its own part of the training: below 0 before it."""
        layers_share = 1 - self.readout_share
        if layer is None:
            return (elapsed - layers_share) / self.readout_share if self.readout_share else elapsed
        if self.order == "sequential":
            return elapsed / layers_share * len(self.stack.blocks) - layer
        return elapsed / layers_share

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        return min(1.0, max(0.0, self.own_progress(group["layer"], elapsed)))

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
            "lr": self.head_settings.lr,
            "weight_decay": self.head_settings.weight_decay,
        }
        return [*layers, head]

    # -- answering

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        products = self.first_products(images)
        return {name: self.read_out(name, products) for name in self.readout_names}

    def answer(self, images: Tensor) -> Tensor:
        return self.read_out(self.readout, self.first_products(images))

    def read_out(self, name: str, products: tuple[Tensor, Tensor]) -> Tensor:
        """The logits of one read-out, shape (B, classes)."""
        if name == "goodness":
            return self.label_goodness(products)
        logits: Tensor = self.head(self.features(products))
        return logits

    def label_goodness(self, products: tuple[Tensor, Tensor]) -> Tensor:
        """The goodness of each image under each label, summed over the read-out layers: shape (B, classes)."""
        images_part, labels_part = products
        every = (images_part.unsqueeze(1) + labels_part).flatten(0, 1)  # (B * classes, ...)
        layers = [self.goodness(activity) for activity in self.activities(every)]
        total = torch.stack([layers[k] for k in self.read_layers]).sum(0)  # (B * classes,)
        return total.view(len(images_part), len(labels_part))


def _exclude(
    supervised: bool, negatives: str, readout: str, label_embedding: LabelEmbeddingName | None, readout_share: float
) -> None:
    """Refuse settings that exclude each other, with the reason."""
    if not supervised and readout == "goodness":
        raise ConfigError(
            f"algo.readout=goodness: with algo.negatives={negatives} the layers never see a label whose goodness "
            f"could be asked; use algo.readout=softmax."
        )
    if not supervised and label_embedding is not None:
        raise ConfigError(
            f"algo.label_embedding={label_embedding}: with algo.negatives={negatives} no label is shown; leave it null."
        )
    if negatives == "hard" and readout_share:
        raise ConfigError(
            f"algo.readout_share={readout_share:g}: algo.negatives=hard are the softmax head's mistakes, which must "
            f"learn from the start; use algo.readout_share=0 or other negatives."
        )


def _read_layers(chosen: Literal["all", "later"] | list[int], depth: int) -> list[int]:
    """The numbers of the layers that the read-outs use."""
    if isinstance(chosen, str):
        return list(range(1 if chosen == "later" and depth > 1 else 0, depth))
    if not chosen or max(chosen) >= depth or len(set(chosen)) < len(chosen):
        raise ConfigError(f"algo.readout_layers={chosen}: different numbers from 0 to {depth - 1} expected.")
    return sorted(chosen)


def _embedding(
    name: LabelEmbeddingName | None, stack: Stack, strength: float | None, supervised: bool
) -> label_embeddings.LabelEmbedding:
    shape, classes = stack.image_shape, stack.classes
    if not supervised:
        return label_embeddings.unlabelled(shape)
    if name is None:
        name = "overlay" if stack.blocks[0].dense else "fourier"
    if strength is None:
        strength = 0.35 if name == "fourier" else 1.0
    try:
        if name == "channels":
            stack.widen(classes)
        return label_embeddings.EMBEDDINGS[name](shape, classes, strength)
    except ValueError as error:
        raise ConfigError(f"algo.label_embedding={name}: {error}.") from error
