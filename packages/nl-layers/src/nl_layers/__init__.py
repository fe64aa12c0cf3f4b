"""Layers and losses that only wire nodes; initializers, optimizers and learning-rate schedules."""

from nl_layers.activations import Relu, Sigmoid, Softmax, Tanh
from nl_layers.affine import Affine
from nl_layers.convolution import Convolution, Pooling
from nl_layers.dropout import Dropout
from nl_layers.flat import FlatDict, add_weight_decay
from nl_layers.losses import CrossEntropy, Loss, SigmoidWithLoss, SoftmaxWithLoss
from nl_layers.module import Layer, LayerCase, Mode
from nl_layers.normalization import BatchNormalization
from nl_layers.params import Params

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "CrossEntropy",
    "Dropout",
    "FlatDict",
    "Layer",
    "LayerCase",
    "Loss",
    "Mode",
    "Params",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "add_weight_decay",
]
