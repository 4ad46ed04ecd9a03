"""Pictures of a network's weights, for TensorBoard."""

from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from ffbp.algorithms import Algorithm
from ffbp.models import Block
from ffbp.models.local_layer import LocalConv2d
from ffbp.settings import Count, checked


class FirstLayerPictures(pl.Callback):
    """Show the weights of the first layer's units as images.

    Grey is 0; white and black are plus and minus each unit's largest weight. The time for drawing does not count as
    training time.

    Args:
        every_n_epochs: how often; also drawn at the end of the training.
        count: how many units, from the first on.
    """

    @checked
    def __init__(self, every_n_epochs: Count, count: Count) -> None:
        self.every_n_epochs, self.count = every_n_epochs, count

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stack = cast(Algorithm, pl_module).stack
        picture = first_layer_picture(stack.blocks[0], stack.image_shape, self.count)
        for logger in (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)):
            logger.experiment.add_image("layers/first", picture, trainer.global_step)


@torch.no_grad()
def first_layer_picture(block: Block, image_shape: tuple[int, ...], count: int) -> Tensor:
    """Draw the weights of at most `count` units of a first layer side by side, of local ones position by position.

    Returns an image, shape (3, height, width), floats in [0, 1].
    """
    affine = block.affine
    weights = affine.kernels() if isinstance(affine, LocalConv2d) else affine.weight
    fields = weights[:count].float().cpu()
    fields = fields.view(-1, *image_shape) if block.dense else fields  # (units, C, H, W)
    fields = fields[:, :3] if fields.shape[1] in (1, 3) else fields.mean(1, keepdim=True)
    largest = fields.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    grid: Tensor = make_grid(0.5 + 0.5 * fields / largest, nrow=16, padding=1, pad_value=1.0)
    return grid
