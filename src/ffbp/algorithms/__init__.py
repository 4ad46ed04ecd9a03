"""Learning rules: each trains any stack. A new one is a file here and a YAML in conf/algo."""

from ffbp.algorithms.backprop import Backprop
from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.feedback import Feedback
from ffbp.algorithms.forward_forward import ForwardForward
from ffbp.algorithms.step import Step

__all__ = ["Algorithm", "Backprop", "Feedback", "ForwardForward", "Step"]
