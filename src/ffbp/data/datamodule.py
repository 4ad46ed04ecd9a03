"""The DataModule that all algorithms share: images in memory, on the device that trains."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torchvision import datasets

from ffbp.data import cifar10, sources
from ffbp.data.batches import Batch, Batches
from ffbp.data.sources import Labelled
from ffbp.errors import ConfigError, one_line
from ffbp.settings import Count, Seed, Share, ZeroOrMore, checked

Source = Literal["mnist", "fashion_mnist", "kmnist", "digits", "cifar10"]

DIGITS = [str(k) for k in range(10)]
NAMES = {"fashion_mnist": datasets.FashionMNIST.classes, "kmnist": datasets.KMNIST.classes}
"""The classes that are no digits."""


class MemoryData(pl.LightningDataModule):
    """Labelled images in memory, split into training, validation and test; the base class of your own data sets.

    The validation images are a stratified part of the training set that depends on `split_seed` alone, not on `seed`.

    Args:
        training: images and labels to train on, and to take the validation images from.
        test: images and labels for the test.
        batch_size: images in a training batch, over all devices together.
        eval_batch_size: images in a validation or test batch; does not affect results.
        val_size: how many training images are held out for validation, or which share of them; 0 for none.
        split_seed: decides which ones.
        shift: training images are shifted at random by up to this many pixels in each direction.
        seed: determines the order of the images and every batch's random numbers.

    Raises:
        ConfigError: if a size does not fit the data set.
    """

    class_names: list[str]  # in the order of the labels
    fingerprint: str | None = None  # of images whose place may hold others one day
    left_out = ""  # what was found and not read, in words

    @checked
    def __init__(
        self,
        training: Labelled,
        test: Labelled,
        *,
        batch_size: Count,
        eval_batch_size: Count,
        val_size: ZeroOrMore | Share,
        split_seed: Seed,
        shift: ZeroOrMore,
        seed: Seed,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.shift, self.seed = batch_size, eval_batch_size, shift, seed
        self.classes = int(max(training.labels.max(), test.labels.max())) + 1
        self.class_names = [str(k) for k in range(self.classes)]
        self.image_shape = tuple(training.images.shape[1:])  # channels, height, width
        self.train, self.val = hold_out(training, val_size, split_seed)
        self.test = test
        count, side = len(self.train.labels), min(self.image_shape[1:])
        if batch_size > count:
            raise ConfigError(f"data.batch_size={batch_size}: 1 to {count} expected, the size of the training set.")
        if shift >= side:
            raise ConfigError(f"data.shift={shift}: less than the image's {side} pixels expected.")

    def describe(self) -> str:
        """One line that says how many images of which kind there are, in which classes, and how they are divided."""
        parts = {"for training": self.train, "for validation": self.val, "for the test": self.test}
        counts = {use: len(part.labels) for use, part in parts.items() if part is not None}
        channels, height, width = self.image_shape
        kind = {1: "grey", 3: "in colours"}.get(channels, f"with {channels} channels")
        named = self.class_names != [str(k) for k in range(self.classes)]
        shown = [one_line(name, 30) for name in self.class_names[:10]] + ["..."] * (self.classes > 10)
        names = f" ({', '.join(shown)})" if named else ""
        divided = ", ".join(f"{count:,} {use}" for use, count in counts.items())
        return (
            f"{sum(counts.values()):,} images of {height} x {width} pixels, {kind}, in {self.classes} classes"
            f"{names}: {divided}{'; ' * bool(self.left_out)}{self.left_out}"
        )

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
    """The data sets that come with the project, in ten classes: 28x28 grey images, or CIFAR-10's 32x32 in colours.

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
        if source == "cifar10":
            if download:
                cifar10.download(folder)
            training, test, class_names = cifar10.read(folder)
        else:
            if download and source != "digits":
                sources.download(source, folder)
            training, test = sources.digits() if source == "digits" else sources.idx_set(source, folder)
            class_names = NAMES.get(source, DIGITS)
        super().__init__(training, test, **settings)
        self.class_names = class_names


def hold_out(
    training: Labelled, size: int | float, split_seed: int, setting: str = "data.val_size"
) -> tuple[Labelled, Labelled | None]:
    """Split training images into those trained on and those held out, stratified by label.

    Both parts keep the given order; the second is None if `size` is 0. The only image of a class is trained on. A
    `size` below 1 is a share of the images, of which at least one for each class is held out.

    Raises:
        ConfigError: if either part would have fewer images than there are classes to divide, naming the `setting`.
    """
    if size == 0:
        return training, None
    images, labels = training
    divisible = np.flatnonzero(labels.bincount()[labels] > 1)
    strata = labels.numpy()[divisible]
    classes = len(np.unique(strata))
    most = len(strata) - classes
    count = size if isinstance(size, int) else max(classes, round(size * len(labels)))
    if not classes <= count <= most:
        none = "0, or " if setting == "data.val_size" else ""
        raise ConfigError(f"{setting}={size}: {none}{classes} to {most} images expected for this data set.")
    from sklearn.model_selection import train_test_split  # here, since a model is loaded and asked without it

    _, held = train_test_split(divisible, test_size=count, stratify=strata, random_state=split_seed)
    held = np.sort(held)
    kept = np.delete(np.arange(len(labels)), held)
    return Labelled(images[kept], labels[kept]), Labelled(images[held], labels[held])
