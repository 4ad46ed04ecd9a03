"""What happens around the training: time, checkpoints, signals, pictures."""

from ffbp.callbacks.clock import TrainingClock
from ffbp.callbacks.pictures import FirstLayerPictures
from ffbp.callbacks.record import RunRecord
from ffbp.callbacks.signals import NotedSignals

__all__ = ["FirstLayerPictures", "NotedSignals", "RunRecord", "TrainingClock"]
