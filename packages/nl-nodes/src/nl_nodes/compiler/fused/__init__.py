"""Fused nodes: several nodes' work in one, with their own verification cases like any other.

Maps lie as (row, column, image, channel), so that what is next to a pixel in memory is the whole batch at that pixel.
"""

from nl_nodes.compiler.fused.affine import Affine
from nl_nodes.compiler.fused.convolution import Conv
from nl_nodes.compiler.fused.cross_entropy import LabelLogSoftmax
from nl_nodes.compiler.fused.frame import Frame
from nl_nodes.compiler.fused.normalization import ChannelMean, ChannelVariance, Normalize
from nl_nodes.compiler.fused.pooling import Pool

__all__ = ["Affine", "ChannelMean", "ChannelVariance", "Conv", "Frame", "LabelLogSoftmax", "Normalize", "Pool"]
