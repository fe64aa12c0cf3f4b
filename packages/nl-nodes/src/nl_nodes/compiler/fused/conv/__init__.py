"""Convolution of maps: the node, and the algorithms that compute it."""
