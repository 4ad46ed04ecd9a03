"""The DataModule that all algorithms share: images in memory, on the device that trains."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.model_selection import train_test_split

from ffbp.data import sources
from ffbp.data.batches import Batch, Batches
from ffbp.data.sources import Labelled
from ffbp.errors import ConfigError
from ffbp.settings import Count, Seed, ZeroOrMore, checked

Source = Literal["mnist", "fashion_mnist", "kmnist", "digits"]


class MemoryData(pl.LightningDataModule):
    """Labelled images in memory, split into training, validation and test; the base class of your own data sets.

    The validation images are a stratified part of the training set that depends on `split_seed` alone, not on `seed`.

    Args:
        training: images and labels to train on, and to take the validation images from.
        test: images and labels for the test.
        batch_size: images in a training batch, over all devices together.
        eval_batch_size: images in a validation or test batch; does not affect results.
        val_size: how many training images are held out for validation; 0 for none.
        split_seed: decides which ones.
        shift: training images are shifted at random by up to this many pixels in each direction.
        seed: determines the order of the images and every batch's random numbers.

    Raises:
        ConfigError: if a size does not fit the data set.
    """

    @checked
    def __init__(
        self,
        training: Labelled,
        test: Labelled,
        *,
        batch_size: Count,
        eval_batch_size: Count,
        val_size: ZeroOrMore,
        split_seed: Seed,
        shift: ZeroOrMore,
        seed: Seed,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.shift, self.seed = batch_size, eval_batch_size, shift, seed
        self.classes = int(max(training.labels.max(), test.labels.max())) + 1
        self.image_shape = tuple(training.images.shape[1:])  # channels, height, width
        self.train, self.val = hold_out(training, val_size, split_seed)
        self.test = test
        count, side = len(self.train.labels), min(self.image_shape[1:])
        if batch_size > count:
            raise ConfigError(f"data.batch_size={batch_size}: 1 to {count} expected, the size of the training set.")
        if shift >= side:
            raise ConfigError(f"data.shift={shift}: less than the image's {side} pixels expected.")

    def train_dataloader(self) -> Batches:
        return self._batches(self.train, self.batch_size, seed=self.seed, shuffle=True, shift=self.shift)

    def val_dataloader(self) -> Batches | list[Batches]:
        return self._batches(self.val, self.eval_batch_size) if self.val is not None else []

    def test_dataloader(self) -> Batches:
        return self._batches(self.test, self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # it was made there

    def _batches(self, part: Labelled, batch_size: int, **options: Any) -> Batches:
        """Move a part of the data to the device that trains, and deal it out to this process."""
        device = torch.device("cpu")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            options |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return Batches(part.images.to(device), part.labels.to(device), batch_size=batch_size, **options)


class ImageData(MemoryData):
    """The data sets that come with the project: 28x28 grey images in ten classes.

    Args:
        source: which data set.
        data_dir: folder of the downloadable data sets, laid out as torchvision does; None for ./data.
        download: fetch missing files.
        settings: those of `MemoryData`.

    Raises:
        DataError: if the files are missing or damaged.
    """

    @checked
    def __init__(self, *, source: Source, data_dir: str | None, download: bool, **settings: Any) -> None:
        folder = Path(data_dir or "data")
        if download and source != "digits":
            sources.download(source, folder)
        training, test = sources.digits() if source == "digits" else sources.idx_set(source, folder)
        super().__init__(training, test, **settings)


def hold_out(training: Labelled, val_size: int, split_seed: int) -> tuple[Labelled, Labelled | None]:
    """Split training images into those trained on and those held out for validation, stratified by label.

    Both parts keep the given order; the second is None if `val_size` is 0. The only image of a class is trained on. A
    ConfigError if either part would have fewer images than there are classes to divide.
    """
    if val_size == 0:
        return training, None
    images, labels = training
    divisible = np.flatnonzero(labels.bincount()[labels] > 1)
    strata = labels.numpy()[divisible]
    classes = len(np.unique(strata))
    most = len(strata) - classes
    if not classes <= val_size <= most:
        raise ConfigError(f"data.val_size={val_size}: 0, or {classes} to {most} expected for this data set.")
    _, held = train_test_split(divisible, test_size=val_size, stratify=strata, random_state=split_seed)
    held = np.sort(held)
    kept = np.delete(np.arange(len(labels)), held)
    return Labelled(images[kept], labels[kept]), Labelled(images[held], labels[held])
