"""The Forward-Forward algorithm: the losses of the layers and the softmax head, and how images are classified."""

from collections.abc import Generator, Iterator, Mapping
from functools import partial
from math import prod
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.forward_forward.contrast import Contrast, Drawn, Negatives
from ffbp.algorithms.forward_forward.goodness import NORMALIZATION, Per
from ffbp.algorithms.forward_forward.labels import FirstProducts, LabelEmbedding, LabelEmbeddingName, make_embedding
from ffbp.algorithms.forward_forward.layer_loss import MEASURES, LayerLoss
from ffbp.algorithms.forward_forward.passes import Passes, ReadoutLayers, layer_numbers
from ffbp.algorithms.forward_forward.peers import PeerNormalization
from ffbp.algorithms.measured import loss_and_accuracy
from ffbp.algorithms.plan import Plan, parameter_groups
from ffbp.algorithms.step import Step, WholeStep, compile_each_size
from ffbp.data import Batch, MemoryData
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import HeadSettings, NonNegative, OptimizerSettings, Positive, Probability, Schedule, checked


class ForwardForward(Algorithm):
    """Train each layer by itself to have high goodness on positive data and low goodness on negative data.

    Positive data are real images that show their true label; negative data are the same images with a false label. To
    learn without labels, positive data are the images as they are and negative data show no digit; then only the
    softmax head uses labels. Each layer's input is detached, so no gradient crosses a layer. One optimizer has a
    parameter group for each layer and one for the softmax head, so that a batch is one step.

    Args:
        stack: whose blocks are trained; its own head is not used.
        optimizer: how parameters are updated; `lr` may be a list, one for each layer.
        head: learning rate, weight decay and dropout of the softmax head; a dropout of None is the model's.
        schedule: how the learning rates change over the training.
        negatives: how negative data are made, see `contrast`.
        objective, alpha, goodness, goodness_per, threshold: what a layer minimises, see `layer_loss`.
        normalization, normalization_per: of what the next layer sees, see `goodness`; a `normalization_per` of None is
            that of `goodness_per`, so that a layer hides what it is judged by, and no more.
        normalize_images: whether each image is divided by the root mean square of its pixels.
        peer_normalization, peer_weight, peer_momentum: how each unit's activity is kept close to its layer's mean, see
            `peers`; the weight is relative to sum_square, mean_square divides it by the number of activities.
        label_embedding, label_strength: how an image carries a label, see `labels`.
        readout: how images are classified: by the label with the highest goodness, or by the softmax head.
        readout_layers: which layers both read-outs use; later, as Hinton does, means all but the first, see `passes`.
        readout_share, order: who learns when, see `plan`.

    Raises:
        ConfigError: if two settings are incompatible.

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
        negatives: Negatives,
        objective: Literal["logistic", "margin", "linear"],
        alpha: Positive,
        goodness: Literal["sum_square", "mean_square"],
        goodness_per: Per,
        threshold: Positive,
        normalization: Literal["rms", "l2"],
        normalization_per: Per | None,
        normalize_images: bool,
        peer_normalization: Literal["hinton", "port"] | None,
        peer_weight: NonNegative,
        peer_momentum: Probability,
        label_embedding: LabelEmbeddingName | None,
        label_strength: Positive | None,
        readout: Literal["goodness", "softmax"],
        readout_layers: ReadoutLayers,
        readout_share: Probability,
        order: Literal["simultaneous", "sequential"],
    ) -> None:
        super().__init__(stack.without_head(), optimizer=optimizer, schedule=schedule)
        self.contrast = Contrast(negatives, stack.classes)
        self.contrast.check_settings(readout, readout_share, label_embedding)
        shapes = stack.activity_shapes()
        self.plan = Plan(len(shapes), order, readout_share)
        losses = [LayerLoss(shape, objective, alpha, goodness, goodness_per, threshold) for shape in shapes]
        self.layer_losses = cast(list[LayerLoss], nn.ModuleList(losses))
        self.peers = nn.ModuleList()
        if peer_normalization is not None:
            self.peers.extend(
                PeerNormalization(units, peer_normalization, peer_weight * loss.scale / prod(shape), peer_momentum)
                for units, loss, shape in zip(stack.unit_shapes(), losses, shapes, strict=True)
            )
        self.readout = readout
        self.readout_layers = layer_numbers(readout_layers, len(shapes))
        self.head_settings = head
        self.head = stack.make_head(sum(prod(shapes[k]) for k in self.readout_layers), head.dropout)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        if self.contrast.shows_labels:
            self.embedding = make_embedding(label_embedding, self.stack, label_strength)
        else:
            self.embedding = LabelEmbedding(torch.zeros(0, *stack.image_shape))
        normalize = partial(NORMALIZATION[normalization], per=normalization_per or goodness_per)
        self.passes = Passes(self.stack, self.embedding, normalize, normalize_images)
        self.whole_step = WholeStep(self._step)

    # -- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        if self.trainer.world_size == 1 and len(self.stack.blocks) > 1 and not self.whole_step.compiled:
            for loss in self.losses(batch):
                self.manual_backward(loss)  # frees this layer's graph before the next one is built
        else:  # several processes exchange gradients once a step, and a single layer has no next one
            step: Step = self.whole_step(*batch[:2], self.contrast.draw(batch), batch.loss_weight, self.learning)
            self.record(step, batch)
            self.manual_backward(cast(Tensor, step.loss) * batch.loss_weight)
        optimizer.step()

    @property
    def learning(self) -> tuple[bool, ...]:
        """Who learns now: each layer, first to last, and then the softmax head."""
        return tuple(self.plan.learns(layer, self.elapsed) for layer in (*range(self.plan.depth), None))

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the losses of the softmax head and of each layer, if they learn now, then record them.

        The gradient of each loss reaches only the parameters of its own layer. Losses come one at a time, so that
        backward can free one layer's graph before the next layer's is built.
        """
        self.record((yield from self._losses(batch, self.learning)), batch)

    def _step(
        self, images: Tensor, labels: Tensor, numbers: Tensor, loss_weight: float, learning: tuple[bool, ...]
    ) -> Step:
        """All losses of a batch at once, added up; `numbers` are those that `Contrast.draw` gives."""
        batch = Batch(images, labels, Drawn(numbers), loss_weight)  # type: ignore[arg-type]
        losses, found = [], self._losses(batch, learning)
        while True:
            try:
                losses.append(next(found))
            except StopIteration as end:
                step: Step = end.value
                return step._replace(loss=torch.stack(losses).sum())

    def _losses(self, batch: Batch, learning: tuple[bool, ...]) -> Generator[Tensor, None, Step]:
        """Yield the losses of a batch as `losses` does, and return its logits and measures."""
        passes, count, (*learns, head_learns) = self.passes, len(batch.labels), learning
        with torch.set_grad_enabled(learns[0]):
            products = passes.first(batch.images)
        # before the head learns, its weights are zero, and so are its logits
        logits = batch.images.new_zeros(count, self.stack.classes)
        if head_learns:
            logits = self.head(passes.features(products, self.readout_layers))
            yield cross_entropy(logits, batch.labels)
        measures: dict[str, Tensor] = {}
        activity = batch.images
        if any(learns):
            with torch.set_grad_enabled(learns[0]):
                first, shown = self.contrast(batch, products, logits.detach(), passes)
        learners = [k for k, learns_now in enumerate(learns) if learns_now]
        for k, block in enumerate(self.stack.blocks[: max(learners, default=-1) + 1]):
            with torch.set_grad_enabled(learns[k]):
                product = passes.product(k, activity, shown) if k else first
                mean_product = product[:count].mean(0) if self.peers else None  # before activations change it in place
                activity = block.after(product)  # ((1 + N) * B, ...), positives first
                measured = self.layer_losses[k](activity, count)
            if learns[k]:
                loss = measured[0]
                if mean_product is not None:
                    loss = loss + self.peers[k](mean_product, activity[:count].detach(), batch.loss_weight)
                yield loss
            measures |= {f"ff/layer_{k}/{name}": value for name, value in zip(MEASURES, measured, strict=True)}
        of_head = loss_and_accuracy("train", logits.detach().float(), batch.labels)
        return Step(logits, measures={**of_head, **measures})

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        return self.plan.passed(group["layer"], elapsed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        labels = self.embedding.weights
        layers = [[*block.parameters(), *labels[k : k + 1]] for k, block in enumerate(self.stack.blocks)]
        return parameter_groups(self.optimizer_settings, self.head_settings, layers, list(self.head.parameters()))

    def check_trainer(self, trainer: pl.Trainer) -> None:
        super().check_trainer(trainer)
        self.plan.check_trainer(trainer)

    def check_batches(self, trainer: pl.Trainer, data: MemoryData) -> None:
        super().check_batches(trainer, data)
        least = 2 * trainer.world_size  # each process mixes the images of its own share
        if data.batch_size < least and self.contrast.kind in ("hybrid", "blend"):
            said = f"data.batch_size={data.batch_size}: a {self.contrast.kind} is of two images of a batch"
            raise ConfigError(f"{said}; take {least} or more.")

    def compile_parts(self) -> None:
        compile_each_size(self.whole_step)

    # -- classifying

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        products = self.passes.first(images)
        names = ("goodness", "softmax") if self.contrast.shows_labels else ("softmax",)
        return {name: self._read_out(name, products) for name in names}

    def answer(self, images: Tensor) -> Tensor:
        assert self.readout is not None
        return self._read_out(self.readout, self.passes.first(images))

    def goodness(self, images: Tensor) -> list[Tensor]:
        if not self.contrast.shows_labels:
            return super().goodness(images)
        return self.passes.label_goodness(self.passes.first(images), self.layer_losses[0].goodness)

    def activities(self, images: Tensor) -> Iterator[Tensor]:
        """Yield each layer's activity under the neutral label, first to last, shape (B, D) or (B, C, H, W)."""
        return self.passes.neutral(self.passes.first(images))

    def _read_out(self, name: str, products: FirstProducts) -> Tensor:
        """The logits of one read-out, shape (B, classes)."""
        if name == "goodness":
            depth = max(self.readout_layers) + 1
            by_layer = self.passes.label_goodness(products, self.layer_losses[0].goodness, depth)
            return torch.stack([by_layer[k] for k in self.readout_layers]).sum(0)
        logits: Tensor = self.head(self.passes.features(products, self.readout_layers))
        return logits
