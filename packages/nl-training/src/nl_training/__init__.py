"""Data, training, tracking and configuration: the experiments of Node_Layer_Network."""

__version__ = "0.1.0"
