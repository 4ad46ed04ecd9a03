"""What happens around the training: time, checkpoints, signals."""

from ffbp.callbacks.clock import TrainingClock
from ffbp.callbacks.record import RunRecord
from ffbp.callbacks.signals import NotedSignals

__all__ = ["NotedSignals", "RunRecord", "TrainingClock"]
