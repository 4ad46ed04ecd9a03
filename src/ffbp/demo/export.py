"""Trained networks as plain data for the page: 16-bit numbers in base64, with what follows each product."""

import base64
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ffbp.algorithms import Algorithm, Backprop, ForwardForward
from ffbp.algorithms.forward_forward.labels import LabelEmbedding
from ffbp.errors import ConfigError, one_line
from ffbp.evaluation import class_names, frame_of
from ffbp.models import Block
from ffbp.models.batch_norm import BatchNorm

ACTIVATIONS = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}


def describe(model: Algorithm, run: str) -> dict[str, Any]:
    """Describe a model for forward.js; its numbers are those of `rounded(model)`.

    Args:
        model: from `ffbp.load`.
        run: what it is called in errors.

    Raises:
        ConfigError: if its rule, network or data set is none that the page knows.
    """
    require_known(model, run)
    small = rounded(model)
    if not all(bool(tensor.isfinite().all()) for tensor in small.state_dict().values()):
        raise ConfigError(f"{run}: has weights too large for 16 bits.")
    frame = frame_of(model.settings)
    assert frame is not None
    described = {
        "size": model.stack.image_shape[-1],
        "classes": class_names(model.settings),
        "frame": frame._asdict(),
        "layers": [_layer(block) for block in small.stack.blocks],
    }
    if not isinstance(small, ForwardForward):
        return described | {"head": _layer(small.stack.head), "ff": None}
    normalize, embedding = cast(partial[Tensor], small.passes.normalize), cast(LabelEmbedding, small.embedding)
    of_ff = {
        "normalization": normalize.func.__name__,
        "normalizationPer": normalize.keywords["per"],
        "normalizeImages": small.passes.normalize_images,
        "goodness": small.layer_losses[0].goodness.__name__,
        "readout": small.readout,
        "readoutLayers": small.readout_layers,
        "labels": len(embedding.patterns),
        "planes": embedding.patterns.shape[1],
        "size": small.stack.image_shape[-1],
        "covered": embedding.covered,
        "patterns": _numbers(embedding.patterns),
    }
    return described | {"head": _layer(small.head), "ff": of_ff}


def require_known(model: Algorithm, run: str) -> None:
    """Raise a ConfigError that names the rule and the network, if they are none that the page knows."""
    settings = model.settings
    algo, network = (one_line(settings[group].get("name", "?")) for group in ("algo", "model"))
    if type(model) not in (Backprop, ForwardForward) or not all(_known(block) for block in model.stack.blocks):
        raise ConfigError(f"{run}: algo={algo} on model={network}; the page knows mlp and cnn under bp and ff.")
    if isinstance(model, ForwardForward) and not isinstance(model.embedding, LabelEmbedding):
        raise ConfigError(f"{run}: algo.label_embedding=units; the page knows overlay, channels and fourier.")
    side = model.stack.image_shape[-1]
    if frame_of(settings) is None or model.stack.image_shape != (1, side, side):
        data = one_line(settings["data"].get("source", "?"))
        raise ConfigError(f"{run}: data={data}; the page is for digits, data=mnist or data=digits.")


def _known(block: Block) -> bool:
    affine, modules = block.affine, list(block.after)
    if isinstance(affine, nn.Conv2d):
        plain = affine.stride == (1, 1) and affine.padding == (0, 0) and affine.kernel_size[0] == affine.kernel_size[1]
    else:
        plain = isinstance(affine, nn.Linear)
    if modules and isinstance(modules[0], BatchNorm):
        del modules[0]
    if modules and type(modules[0]) in ACTIVATIONS:
        del modules[0]
    if modules and isinstance(pool := modules[0], nn.MaxPool2d):
        plain = plain and pool.kernel_size == pool.stride and pool.padding == 0
        del modules[0]
    return plain and not modules


def rounded(model: Algorithm) -> Algorithm:
    """A copy whose numbers are single-precision floats rounded to 16 bits; batch norm is part of the weights."""
    small = deepcopy(model).float().eval()
    for block in small.stack.blocks:
        if len(block.after) and isinstance(norm := block.after[0], BatchNorm):
            scale = norm.weight.data * (cast(Tensor, norm.running_var) + norm.eps).rsqrt()  # (units,)
            weight, bias = block.affine.weight.data, cast(Tensor, block.affine.bias).data
            weight.mul_(scale.view(-1, *[1] * (weight.dim() - 1)))
            bias.sub_(cast(Tensor, norm.running_mean)).mul_(scale).add_(norm.bias.data)
            block.after = nn.Sequential(*list(block.after)[1:])
    if isinstance(small, ForwardForward):
        small.embedding.patterns = small.embedding.patterns.half().float()
    for parameter in small.parameters():
        parameter.data = parameter.data.half().float()
    return small


def _layer(block: Block) -> dict[str, Any]:
    affine = cast(nn.Linear | nn.Conv2d, block.affine)
    layer: dict[str, Any] = {"kind": "dense", "units": affine.weight.shape[0], "activation": "none", "pool": 1}
    if isinstance(affine, nn.Conv2d):
        layer |= {"kind": "conv", "kernel": affine.kernel_size[0]}
    for module in block.after:
        if isinstance(module, nn.MaxPool2d):
            layer["pool"] = module.kernel_size
        else:
            layer["activation"] = ACTIVATIONS[type(module)]
    return layer | {"weight": _numbers(affine.weight), "bias": _numbers(cast(Tensor, affine.bias))}


def _numbers(values: Tensor) -> str:
    """Base64 of 16-bit floats, little-endian."""
    return base64.b64encode(values.detach().to(torch.float16).numpy().astype("<f2").tobytes()).decode()
