"""What happens around the training: time, checkpoints, pictures."""

from ffbp.callbacks.clock import TrainingClock
from ffbp.callbacks.pictures import FirstLayerPictures
from ffbp.callbacks.record import RunRecord

__all__ = ["FirstLayerPictures", "RunRecord", "TrainingClock"]
