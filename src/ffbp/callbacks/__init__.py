"""What can be added around a training, such as pictures."""

from ffbp.callbacks.curvature import Sharpness
from ffbp.callbacks.pictures import FirstLayerPictures
from ffbp.callbacks.tensorboard import TensorBoard

__all__ = ["FirstLayerPictures", "Sharpness", "TensorBoard"]
