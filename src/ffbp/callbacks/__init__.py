"""What can be added around a training, such as pictures."""

from ffbp.callbacks.gradients import GradientNorms
from ffbp.callbacks.pictures import FirstLayerPictures
from ffbp.callbacks.tensorboard import TensorBoard

__all__ = ["FirstLayerPictures", "GradientNorms", "TensorBoard"]
