"""What can be added around a training, such as pictures."""

from ffbp.callbacks.alignment import Alignment
from ffbp.callbacks.costs import Costs
from ffbp.callbacks.curvature import Sharpness
from ffbp.callbacks.gradients import GradientNorms
from ffbp.callbacks.pictures import FirstLayerPictures, Pictures
from ffbp.callbacks.run_settings import LoggedSettings
from ffbp.callbacks.tensorboard import TensorBoard

__all__ = [
    "Alignment",
    "Costs",
    "FirstLayerPictures",
    "GradientNorms",
    "LoggedSettings",
    "Pictures",
    "Sharpness",
    "TensorBoard",
]
