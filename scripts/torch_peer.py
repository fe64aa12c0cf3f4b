"""A network rebuilt from PyTorch modules with the same weights, for the benchmarks."""

from __future__ import annotations

from typing import Any

import torch

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    GlobalAveragePooling,
    Pooling,
    Relu,
    Residual,
    Sequential,
    ZeroPadShortcut,
)
from nl_models import Network


class Block(torch.nn.Module):
    """The sum of a branch and a shortcut."""

    def __init__(self, branch: torch.nn.Module, shortcut: torch.nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Any) -> Any:
        """Return the sum."""
        return self.branch(x) + self.shortcut(x)


class Padded(torch.nn.Module):
    """Every other pixel in steps of `stride`, with channels of zeros up to `filters`."""

    def __init__(self, filters: int, stride: int) -> None:
        super().__init__()
        self.filters, self.stride = filters, stride

    def forward(self, x: Any) -> Any:
        """Return the pixels."""
        pixels = x[:, :, :: self.stride, :: self.stride]
        return torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, self.filters - x.shape[1]))


def peer(net: Network, layout: str) -> Any:
    """Return the same layers in PyTorch, without dropout, in memory layout "NCHW" or "channels_last"."""
    modules: list[torch.nn.Module] = []
    images = len(net.input_shape) == 3 and not isinstance(net.layers[0], Affine)
    for layer in net.layers:
        if isinstance(layer, Affine) and not any(isinstance(module, torch.nn.Flatten) for module in modules):
            modules.append(torch.nn.Flatten())
            images = False
        modules.append(_module(layer, images))
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return torch.nn.Sequential(*modules).to(memory_format=memory)


def _module(layer: Any, images: bool) -> torch.nn.Module:
    if isinstance(layer, Sequential):
        return torch.nn.Sequential(*(_module(inner, images) for inner in layer.layers))
    if isinstance(layer, Residual):
        shortcut = torch.nn.Identity() if layer.shortcut is None else _module(layer.shortcut, images)
        return Block(_module(layer.branch, images), shortcut)
    if isinstance(layer, ZeroPadShortcut):
        return Padded(layer.filters, layer.stride)
    if isinstance(layer, GlobalAveragePooling):
        return torch.nn.AdaptiveAvgPool2d(1)
    if isinstance(layer, Convolution):
        k, c, size, _ = layer.weight.value.shape
        conv = torch.nn.Conv2d(c, k, size, layer.stride, layer.pad, bias=layer.bias is not None)
        return _copy_weights(conv, layer.weight.value, layer.bias)
    if isinstance(layer, Affine):
        linear = torch.nn.Linear(*layer.weight.value.shape, bias=layer.bias is not None)
        return _copy_weights(linear, layer.weight.value.T, layer.bias)
    if isinstance(layer, BatchNormalization):
        return (torch.nn.BatchNorm2d if images else torch.nn.BatchNorm1d)(layer.gamma.value.size)
    if isinstance(layer, Pooling):
        return torch.nn.MaxPool2d(2)
    if isinstance(layer, Relu):
        return torch.nn.ReLU()
    raise TypeError(f"{type(layer).__name__} has no counterpart here")


def _copy_weights(module: Any, weight: Any, bias: Any) -> torch.nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight.copy()))
        if bias is not None:
            module.bias.copy_(torch.from_numpy(bias.value.copy()))
    return module
