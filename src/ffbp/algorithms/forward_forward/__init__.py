"""Forward-Forward: two forward passes, and each layer learns from its own activity alone."""

from ffbp.algorithms.forward_forward.algorithm import ForwardForward

__all__ = ["ForwardForward"]
