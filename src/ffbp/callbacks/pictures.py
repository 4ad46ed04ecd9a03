"""Pictures of a training for TensorBoard: what the layers do, what is confused, what the weights look like."""

from typing import Annotated, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import Field, StrictBool, TypeAdapter, ValidationError
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.utils import make_grid

from ffbp.algorithms import Algorithm, ForwardForward
from ffbp.callbacks.answers import Answers, shown_colors
from ffbp.callbacks.charts import READOUT, Layout, layout
from ffbp.callbacks.contrast_pictures import Examples, add_spreads, labels_picture, spreads_of_layer
from ffbp.callbacks.drawing import Picture, Spread, as_png, enlarged
from ffbp.callbacks.layers import a_batch, looking, readout_accuracies
from ffbp.data import Batch, MemoryData
from ffbp.errors import CheckpointError
from ffbp.lifecycle.record import off_the_clock
from ffbp.models import Block
from ffbp.models.local_layer import LocalConv2d
from ffbp.settings import Count, checked

PROBED = 1000  # training images at most whose goodness is drawn
READ_OUT = 4000  # training images at most to which read-outs are fitted
SHARE = 5  # one in so many of the training images, if that is less: short trainings stay quick
UNITS = 64  # whose weights are drawn

KEPT: TypeAdapter[list[list[Spread]]] = TypeAdapter(
    Annotated[list[Annotated[list[Spread], Field(max_length=100)]], Field(max_length=10_000)]
)


class Pictures(pl.Callback):
    """Draw where there is a TensorBoard logger: before the training, after epochs 1, 2, 5, 10, 20, ..., and at its end.

    - `val/confusion` and `val/mistakes`: which classes are confused, and the worst mistakes with their scores; of the
      best checkpoint, `test/...`.
    - `weights/first_layer`: the weights of the first units; grey is 0.
    - `readout/layer_0/acc` and so on, curves: how many validation images a linear read-out of each layer would get
      right. It is solved for then, and trains nothing.
    - Of Forward-Forward: `ff/examples`, the first images as they are shown; `ff/layer_0/goodness` and so on, the
      goodness of positives and negatives in each layer; `ff/goodness_of_labels`, that of one image under all labels.
    - The tab Custom Scalars, in which curves that belong together share a chart.

    It only observes: a run ends with the same bits with it and without it. What it takes is no training time, but part
    of `time/total_seconds`. Of several processes the first draws, in an evaluation its own share of the images.

    Args:
        every_epoch: draw after every epoch.
    """

    @checked
    def __init__(self, every_epoch: StrictBool) -> None:
        self.every_epoch = every_epoch
        self.spreads: list[list[Spread]] = []  # for each layer, those of epochs 0, 1, 2, 5, 10, ... so far
        self.examples: Examples | None = None
        self.answers: Answers | None = None
        self.charts: Layout = {}
        self.drawn = -1  # after how many epochs the last picture was drawn

    # -- when

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._draw_layers(trainer, cast(Algorithm, pl_module), 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        first = batch_idx == 0 and trainer.current_epoch == 0
        if first and isinstance(pl_module, ForwardForward) and _writers(trainer):
            self.examples = Examples(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.examples is not None:
            examples, self.examples = self.examples, None
            algorithm = cast(ForwardForward, pl_module)
            with off_the_clock(trainer), looking(trainer, algorithm):
                _write(trainer, "ff/examples", examples.picture(algorithm), step=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _writers(trainer):
            return
        algorithm, epoch = cast(Algorithm, pl_module), trainer.current_epoch + 1
        with off_the_clock(trainer):
            if self._due(trainer, epoch):
                self._draw_layers(trainer, algorithm, epoch)
                self._draw_answers(trainer, algorithm, "val", f"validation images after epoch {epoch}")
            self._group_curves(trainer, algorithm)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self.drawn and trainer.global_step:  # early stopping, or max_steps
            self._draw_layers(trainer, cast(Algorithm, pl_module), trainer.current_epoch)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = self._due(trainer, trainer.current_epoch + 1) and not trainer.sanity_checking and _writers(trainer)
        self.answers = Answers(cast(Algorithm, pl_module).stack.classes) if due else None

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.answers = Answers(cast(Algorithm, pl_module).stack.classes) if _writers(trainer) else None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.answers is not None and isinstance(outputs, Tensor):
            self.answers.add(batch, outputs)

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw_answers(trainer, cast(Algorithm, pl_module), "test", "test images")

    def _due(self, trainer: pl.Trainer, epoch: int) -> bool:
        """Whether to draw after `epoch` epochs."""
        return self.every_epoch or epoch == trainer.max_epochs or _is_milestone(epoch)

    # -- what

    def _draw_layers(self, trainer: pl.Trainer, algorithm: Algorithm, epoch: int) -> None:
        if not _writers(trainer):
            return
        self.drawn = epoch
        data = cast(MemoryData, trainer.datamodule)  # type: ignore[attr-defined]
        stack, seen = algorithm.stack, max(2, len(data.train.labels) // SHARE)
        weights = enlarged(first_layer_picture(stack.blocks[0], stack.image_shape, UNITS))
        _write(trainer, "weights/first_layer", weights)
        with looking(trainer, algorithm):
            if isinstance(algorithm, ForwardForward):
                rows = add_spreads(self.spreads, algorithm, data.train, min(PROBED, seen), epoch)
                if _is_milestone(epoch):
                    self.spreads = rows
                for k, spreads in enumerate(rows):
                    _write(trainer, f"ff/layer_{k}/goodness", spreads_of_layer(algorithm, k, spreads))
                if algorithm.contrast.shows_labels:
                    one = a_batch(algorithm, data.train, 0, 1)
                    _write(trainer, "ff/goodness_of_labels", labels_picture(algorithm, one, epoch))
            if data.val is not None and trainer.limit_val_batches:
                accuracies = readout_accuracies(algorithm, data.train, data.val, min(READ_OUT, seen))
                for k, accuracy in enumerate(accuracies):
                    for writer in _writers(trainer):
                        writer.add_scalar(READOUT.format(k), accuracy, trainer.global_step)

    def _draw_answers(self, trainer: pl.Trainer, algorithm: Algorithm, phase: str, of: str) -> None:
        answers, self.answers = self.answers, None
        if answers is not None:
            _write(trainer, f"{phase}/confusion", answers.confusion(f"Confusion, {of}"))
            as_goodness = algorithm.readout == "goodness"
            _write(trainer, f"{phase}/mistakes", answers.mistakes(f"Worst mistakes, {of}", as_goodness=as_goodness))

    def _group_curves(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        """Lay out the tab Custom Scalars anew if something has been measured for the first time."""
        names = {name for names in algorithm.train_means.sums for name in names} | {*algorithm.epoch_metrics}
        if any(name.startswith("val/") for name in names):
            names |= {READOUT.format(k) for k in range(len(algorithm.stack.blocks))}
        charts = layout(names)
        if charts != self.charts:
            self.charts = charts
            for writer in _writers(trainer):
                writer.add_custom_scalars(charts)

    # -- what a resumed run needs to draw the epochs before

    def state_dict(self) -> dict[str, Any]:
        return {"spreads": [[list(spread) for spread in layer] for layer in self.spreads]} if self.spreads else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            self.spreads = KEPT.validate_python(state_dict.get("spreads", []))
        except ValidationError as error:
            raise CheckpointError("what the checkpoint keeps of earlier pictures cannot be used.") from error


def _writers(trainer: pl.Trainer) -> list[Any]:
    """TensorBoard's writers, in the first process."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _write(trainer: pl.Trainer, tag: str, picture: Picture | None, step: int | None = None) -> None:
    if picture is None:
        return
    for writer in _writers(trainer):
        shown = Summary.Image(encoded_image_string=as_png(picture), height=picture.shape[0], width=picture.shape[1])
        summary = Summary(value=[Summary.Value(tag=tag, image=shown)])
        writer._get_file_writer().add_summary(summary, trainer.global_step if step is None else step)


def _is_milestone(epoch: int) -> bool:
    """Whether a number is 0, or 1, 2 or 5 times a power of ten."""
    while epoch and epoch % 10 == 0:
        epoch //= 10
    return epoch in (0, 1, 2, 5)


class FirstLayerPictures(pl.Callback):
    """Show the weights of the first layer's units as images, in runs that were begun before there was `Pictures`.

    Args:
        every_n_epochs: how often; also drawn at the end of the training.
        count: how many units, from the first on.
    """

    @checked
    def __init__(self, every_n_epochs: Count, count: Count) -> None:
        self.every_n_epochs, self.count = every_n_epochs, count

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch % self.every_n_epochs == 0:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stack = cast(Algorithm, pl_module).stack
        for writer in _writers(trainer):
            picture = first_layer_picture(stack.blocks[0], stack.image_shape, self.count)
            writer.add_image("layers/first", picture, trainer.global_step)


@torch.no_grad()
def first_layer_picture(block: Block, image_shape: tuple[int, ...], count: int) -> Tensor:
    """Draw the weights of at most `count` units of a first layer side by side, of local ones position by position.

    Grey is 0; white and black are plus and minus each unit's largest weight. Returns an image, shape (3, height,
    width), floats in [0, 1].
    """
    affine = block.affine
    weights = affine.kernels() if isinstance(affine, LocalConv2d) else affine.weight
    fields = weights[:count].float().cpu()
    fields = fields.view(-1, *image_shape) if block.dense else fields  # (units, C, H, W)
    fields = shown_colors(fields)
    largest = fields.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    grid: Tensor = make_grid(0.5 + 0.5 * fields / largest, nrow=16, padding=1, pad_value=1.0)
    return grid
