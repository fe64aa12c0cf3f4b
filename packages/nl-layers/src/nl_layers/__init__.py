"""Layers and losses that only wire nodes; initializers, optimizers and learning-rate schedules."""

from nl_layers.activations import Relu, Sigmoid, Softmax, Tanh
from nl_layers.affine import Affine
from nl_layers.containers import Residual, Sequential, ZeroPadShortcut
from nl_layers.convolution import Convolution
from nl_layers.dropout import Dropout
from nl_layers.flat import FlatDict, add_weight_decay, clip_norm
from nl_layers.losses import CrossEntropy, Loss, SigmoidWithLoss, SoftmaxWithLoss
from nl_layers.module import Layer, LayerCase, Mode
from nl_layers.normalization import BatchNormalization
from nl_layers.params import Params
from nl_layers.pooling import AveragePooling, GlobalAveragePooling, Pooling

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "AveragePooling",
    "BatchNormalization",
    "Convolution",
    "CrossEntropy",
    "Dropout",
    "FlatDict",
    "GlobalAveragePooling",
    "Layer",
    "LayerCase",
    "Loss",
    "Mode",
    "Params",
    "Pooling",
    "Relu",
    "Residual",
    "Sequential",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "ZeroPadShortcut",
    "add_weight_decay",
    "clip_norm",
]
