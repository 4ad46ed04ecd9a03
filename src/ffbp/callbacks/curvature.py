"""The sharpness of the loss over a training."""

from typing import cast

import lightning.pytorch as pl
import torch

from ffbp.algorithms import Algorithm
from ffbp.algorithms.output_loss import OUTPUT_LOSS, LossName
from ffbp.curvature import largest_eigenvalues
from ffbp.data import MemoryData
from ffbp.lifecycle.record import off_the_clock
from ffbp.settings import Count, Positive, checked


class Sharpness(pl.Callback):
    """Log the largest eigenvalue of the Hessian of the loss, by the parameters, as curvature/sharpness.

    The loss is that of the rule's answer to the first training images, neither shifted nor dropped from. Nothing that
    the training uses is touched, and the time does not count as training time. With several processes, all of them
    measure the same, so that none waits for another.

    Args:
        every_n_epochs: how often, at the end of an epoch; also after the epoch at `trainer.max_epochs`.
        images: how many training images, from the first on.
        loss: of the logits, see `output_loss`.
        tolerance: how exact, see `ffbp.curvature.lanczos`.
        most_steps: products with the Hessian at most; as many vectors, each as long as all parameters, are in memory.

    Source: Cohen et al. 2021, arXiv:2103.00065, which follows it over trainings.
    """

    @checked
    def __init__(
        self, every_n_epochs: Count, images: Count, loss: LossName, tolerance: Positive, most_steps: Count
    ) -> None:
        self.every_n_epochs, self.images, self.loss = every_n_epochs, images, loss
        self.tolerance, self.most_steps = tolerance, most_steps

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and epoch != trainer.max_epochs:
            return
        with off_the_clock(trainer):
            self._measure(cast(Algorithm, pl_module), cast(MemoryData, trainer.datamodule))  # type: ignore[attr-defined]

    def _measure(self, algorithm: Algorithm, data: MemoryData) -> None:
        images = algorithm.stack.as_input(data.train.images[: self.images]).to(algorithm.device)
        labels = data.train.labels[: self.images].to(algorithm.device)
        with torch.compiler.set_stance("force_eager"):
            found = largest_eigenvalues(
                algorithm, images, labels, OUTPUT_LOSS[self.loss], tolerance=self.tolerance, most_steps=self.most_steps
            )
        sharpness = found.values[0]
        algorithm.log("curvature/sharpness", sharpness)
        algorithm.epoch_metrics["curvature/sharpness"] = sharpness
