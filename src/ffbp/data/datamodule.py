"""The DataModule that all algorithms share: images in memory, on the device that trains."""

from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.model_selection import train_test_split

from ffbp.data import sources
from ffbp.data.batches import Batch, Batches
from ffbp.data.sources import Labelled
from ffbp.errors import ConfigError
from ffbp.settings import Count, CountOrNone, Seed, checked


class ImageData(pl.LightningDataModule):
    """Labelled 28x28 images, split into training, validation and test.

    The validation images are held out of the training set, stratified, by a split of their own that does not
    change with `seed`. The test images are the data set's own.

    Args:
        source: which data set.
        data_dir: where the files of downloadable sets are, as torchvision lays them out.
        download: fetch what is missing.
        batch_size: images in a training batch, over all devices together.
        eval_batch_size: images in a validation or test batch; changes no result.
        val_size: how many training images are held out; 0 for none.
        split_seed: which ones.
        shift: training images are shifted at random by up to this many pixels in each direction.
        seed: what the order of the images and every batch's draws derive from.

    Raises:
        DataError: if the files are missing or damaged.
        ConfigError: if a size does not fit the data set.
    """

    @checked
    def __init__(
        self,
        *,
        source: Literal["mnist", "fashion_mnist", "kmnist", "digits"],
        data_dir: str,
        download: bool,
        batch_size: Count,
        eval_batch_size: Count,
        val_size: CountOrNone,
        split_seed: Seed,
        shift: CountOrNone,
        seed: Seed,
    ) -> None:
        super().__init__()
        self.source, self.batch_size, self.eval_batch_size = source, batch_size, eval_batch_size
        self.shift, self.seed = shift, seed
        if source == "digits":
            training, self.test = sources.digits()
        else:
            if download:
                sources.download(source, Path(data_dir))
            training, self.test = sources.idx_set(source, Path(data_dir))
        self.train, self.val = hold_out(training, val_size, split_seed)
        if batch_size > len(self.train.labels):
            raise ConfigError(
                f"data.batch_size={batch_size}: 1 to {len(self.train.labels)} expected, the size of the training set."
            )
        if shift >= min(self.image_shape[1:]):
            raise ConfigError(f"data.shift={shift}: less than the image's {min(self.image_shape[1:])} pixels expected.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        return sources.CLASSES

    def train_dataloader(self) -> Batches:
        device, rank, world_size = self._place()
        return Batches(
            self.train.images.to(device),
            self.train.labels.to(device),
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=True,
            shift=self.shift,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        return self._evaluation(self.val) if self.val is not None else []

    def test_dataloader(self) -> Batches:
        return self._evaluation(self.test)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # made there

    def _evaluation(self, part: Labelled) -> Batches:
        device, rank, world_size = self._place()
        return Batches(
            part.images.to(device),
            part.labels.to(device),
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )

    def _place(self) -> tuple[str, int, int]:
        if self.trainer is None:
            return "cpu", 0, 1
        return str(self.trainer.strategy.root_device), self.trainer.global_rank, self.trainer.world_size


def hold_out(training: Labelled, val_size: int, split_seed: int) -> tuple[Labelled, Labelled | None]:
    """Split training images into those trained on and those held out for validation, stratified by label.

    Returns:
        the training part and the validation part, None where `val_size` is 0; the order within each is kept.

    Raises:
        ConfigError: if the held-out part, or what is left, has fewer images than there are classes.
    """
    if val_size == 0:
        return training, None
    images, labels = training
    most = len(labels) - sources.CLASSES
    if not sources.CLASSES <= val_size <= most:
        raise ConfigError(f"data.val_size={val_size}: 0, or {sources.CLASSES} to {most} expected for this data set.")
    kept, held = train_test_split(
        np.arange(len(labels)), test_size=val_size, stratify=labels.numpy(), random_state=split_seed
    )
    kept.sort()
    held.sort()
    return Labelled(images[kept], labels[kept]), Labelled(images[held], labels[held])
