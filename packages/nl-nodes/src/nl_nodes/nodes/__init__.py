"""The nodes, one family a file."""

from nl_nodes.nodes.arithmetic import Add, AddConst, MaskedMul, Mul, MulConst, Power, Reciprocal
from nl_nodes.nodes.functions import Exp, Log, Sigmoid, Softplus, Tanh
from nl_nodes.nodes.images import Img2Matrix
from nl_nodes.nodes.labels import OneHot
from nl_nodes.nodes.leaves import Buffer, Constant, Input, Leaf, Parameter
from nl_nodes.nodes.masks import IndexMask, StopGradient, ValueMask
from nl_nodes.nodes.products import Dot
from nl_nodes.nodes.reductions import Max, Mean, Repeat, Sum
from nl_nodes.nodes.structure import Pad, Reshape, Slice, T, Transpose

__all__ = [
    "Add", "AddConst", "Buffer", "Constant", "Dot", "Exp", "Img2Matrix", "IndexMask", "Input", "Leaf", "Log",
    "MaskedMul", "Max", "Mean", "Mul", "MulConst", "OneHot", "Pad", "Parameter", "Power", "Reciprocal", "Repeat",
    "Reshape", "Sigmoid", "Slice", "Softplus", "StopGradient", "Sum", "T", "Tanh", "Transpose", "ValueMask",
]  # fmt: skip
