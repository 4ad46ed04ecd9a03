"""Images: where they come from, how they are split, and how they reach the algorithm."""

from ffbp.data.batches import Batch, Batches
from ffbp.data.datamodule import ImageData, MemoryData
from ffbp.data.own_images import FolderData, NpzData
from ffbp.data.sources import Labelled

__all__ = ["Batch", "Batches", "FolderData", "ImageData", "Labelled", "MemoryData", "NpzData"]
