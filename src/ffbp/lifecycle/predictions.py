"""predictions.npz: what a run answered in its test, so that the comparison can show confusion and mistakes."""

import io
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, distributed

from ffbp.data import Batch
from ffbp.files import write_bytes

MOST_CLASSES, MOST_SCORES = 1_000, 4_000_000  # of a test set whose answers are kept
MOST_IMAGES, MOST_PIXELS = 1_000, 400_000  # of the mistakes whose images are kept


class TestAnswers(pl.Callback):
    """Collect the answers of all processes to the test images, in the order of the test set.

    It waits for no device until the test has ended. Copies that stand in for a missing share are left out.
    """

    __test__ = False  # for pytest, which takes the name for that of a test

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._parts = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:  # a rule with a test of its own
            return
        logits = outputs[: batch.counted].float()  # (B, classes)
        scores = logits.log_softmax(1).clamp(min=-1e4).half()  # within what half a float can say
        self._parts.append((batch.labels[: batch.counted], logits.argmax(1), scores))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        mine = [tuple(tensor.cpu() for tensor in part) for part in self._parts]
        gathered: list[Any] = [mine]
        if distributed.is_initialized():
            gathered = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, mine)
        # a batch is divided among the processes in their order
        self._parts = [part for batch in zip(*gathered, strict=True) for part in batch]

    def write(self, path: Path, images: Tensor) -> None:
        """Write the file, if the test set is not too large for one.

        It has `labels` and `answers` (N,), `scores` (N, classes), the logarithms of the classes' probabilities to 2 %,
        and of the first mistakes `mistakes` (M,), their numbers in the test set, and `images` (M, C, H, W), uint8.

        Args:
            path: of the file, which is replaced in one step.
            images: of the test set, shape (N, C, H, W), uint8.
        """
        if not self._parts:
            return
        labels, answers, scores = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        if scores.shape[1] > MOST_CLASSES or scores.numel() > MOST_SCORES:
            return
        most = min(MOST_IMAGES, MOST_PIXELS // max(1, images[0].numel()))
        mistakes = (labels != answers).nonzero().flatten()[:most]
        small = np.uint8 if scores.shape[1] <= 256 else np.int16
        arrays = {
            "labels": labels.numpy().astype(small),
            "answers": answers.numpy().astype(small),
            "scores": _rounded(scores).numpy(),
            "mistakes": mistakes.numpy().astype(np.int32),
            "images": images[mistakes].numpy(),
        }
        file = io.BytesIO()
        with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as archive:  # a third of np.savez_compressed's time
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        write_bytes(path, file.getvalue())


def _rounded(scores: Tensor) -> Tensor:
    """Half floats without the last five of their ten binary digits, which halves their size once compressed."""
    return ((scores.view(torch.int16) + 0x10) & ~0x1F).view(torch.half)
