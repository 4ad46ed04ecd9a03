"""What happens around the training: time, checkpoints, signals."""

from ffbp.callbacks.clock import TrainingClock
from ffbp.callbacks.record import RunRecord
from ffbp.callbacks.signals import StopOnSignal

__all__ = ["RunRecord", "StopOnSignal", "TrainingClock"]
