"""Data, training, tracking and configuration: the experiments of Node_Layer_Network."""
