"""Fused nodes: each computes a pattern of nodes at once, and has verification cases like any other.

Maps are (H, W, N, C): the whole batch at a pixel is contiguous in memory.
"""

from nl_nodes.compiler.fused.affine import Affine
from nl_nodes.compiler.fused.batch_norm import ChannelMean, ChannelVariance, Normalize
from nl_nodes.compiler.fused.conv.node import Conv
from nl_nodes.compiler.fused.log_softmax import LabelLogSoftmax
from nl_nodes.compiler.fused.max_pool import Pool
from nl_nodes.compiler.fused.pad import ZeroPad

__all__ = ["Affine", "ChannelMean", "ChannelVariance", "Conv", "LabelLogSoftmax", "Normalize", "Pool", "ZeroPad"]
