"""Fused nodes: several nodes' work in one, with their own verification cases like any other.

Maps lie as (row, column, image, channel), so that what is next to a pixel in memory is the whole batch at that pixel.
"""

from nl_nodes.compiler.fused.affine import Affine
from nl_nodes.compiler.fused.batch_norm import ChannelMean, ChannelVariance, Normalize
from nl_nodes.compiler.fused.conv.node import Conv
from nl_nodes.compiler.fused.log_softmax import LabelLogSoftmax
from nl_nodes.compiler.fused.max_pool import Pool
from nl_nodes.compiler.fused.pad import ZeroPad

__all__ = ["Affine", "ChannelMean", "ChannelVariance", "Conv", "LabelLogSoftmax", "Normalize", "Pool", "ZeroPad"]
