"""MLP, CNN, VGG and residual networks wired from layers, with safe weight files."""

from nl_models.curvature import Curvature
from nl_models.network import Network
from nl_models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56
from nl_models.results import Enqueued, TrainOutput
from nl_models.sequential import Sequential
from nl_models.specs import BatchNormSpec, ConvSpec, DenseSpec, ResidualSpec
from nl_models.weights import load_state, save_state
from nl_models.zoo import MODELS, build, cnn3, cnn8, mlp, simple_convnet, vgg11, vgg16

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "BatchNormSpec",
    "ConvSpec",
    "Curvature",
    "DenseSpec",
    "Enqueued",
    "Network",
    "ResidualSpec",
    "Sequential",
    "TrainOutput",
    "build",
    "cnn3",
    "cnn8",
    "load_state",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "save_state",
    "simple_convnet",
    "vgg11",
    "vgg16",
]
