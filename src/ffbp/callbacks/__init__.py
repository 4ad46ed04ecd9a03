"""What can be added around a training, such as pictures."""

from ffbp.callbacks.pictures import FirstLayerPictures

__all__ = ["FirstLayerPictures"]
