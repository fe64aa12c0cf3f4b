"""The models in plain PyTorch, built from a network's parameters by name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nl_layers import Dropout
from nl_models import Network
from nl_nodes import Graph, IndexMask, Input

# c: a 3x3 convolution and its padding (k: 5x5); p: 2x2 max pooling; a: a hidden affine layer. The last one is implied.
PLANS = {
    "mlp": "a a a a",
    "cnn3": "k0 p a",
    "simple_convnet": "k0 p a",
    "cnn8": "c1 c1 p c1 c2 p c1 c1 p a",
    "vgg11": "c1 p c2 p c1 c1 p c1 c1 p c1 c1 p a a",
    "vgg16": "c1 c1 p c1 c2 p c1 c1 c1 p c1 c1 c1 p c1 c1 c1 p a a",
}
# Stages and blocks of each.
STAGES = {"resnet18": (4, 2), **{f"resnet{6 * n + 2}": (3, n) for n in (3, 5, 7, 9)}}
KERNELS = {"k": (5, 5), "c": (3, 3)}
ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class TorchNetwork:
    """A network in PyTorch, with copies of its parameters and running statistics.

    Attributes:
        params: the parameters by name.
        running: the running statistics by name.
    """

    def __init__(self, net: Network) -> None:
        state = {name: torch.from_numpy(array) for name, array in net.state_dict().items()}
        self.params = {name: state[name].requires_grad_() for name in net.params}
        self.running = {name: tensor for name, tensor in state.items() if name not in net.params}
        self.spec, self.plan, self.passes = net.spec, PLANS.get(net.name, "").split(), 0
        self.stream = next((layer.stream for layer in net.layers if isinstance(layer, Dropout)), 0)
        self.where = "before_activation" if self.spec["batch_norm"] is True else self.spec["batch_norm"]

    def step(self, x, t) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return loss, logits and gradients of one training pass."""
        logits = self.logits(x, train=True)
        loss = F.cross_entropy(logits, torch.from_numpy(t))
        self.passes += 1
        return loss, logits, dict(zip(self.params, torch.autograd.grad(loss, self.params.values()), strict=True))

    def logits(self, x, train: bool) -> Tensor:
        if self.spec["name"] in STAGES:
            return self.residual(torch.from_numpy(x), train)
        y, number = torch.from_numpy(x), 0
        images = "p" in self.plan
        for part in self.plan:
            if part == "p":
                y = F.max_pool2d(y, 2)
                continue
            number += 1
            y = y if part != "a" else y.flatten(1)
            where = self.where if part != "a" or not images else False
            if where == "before_affine":
                y = self.normalised(y, number, train)
            y = self.linear(y, part, number)
            if where == "before_activation":
                y = self.normalised(y, number, train)
            y = ACTIVATIONS[self.spec["activation"]](y)
            if where == "after_activation":
                y = self.normalised(y, number, train)
            if part == "a" and train:
                y = self.dropped(y, number)
        return self.linear(y, "a", number + 1)

    def block(self, x: Tensor, number: int, stride: int, train: bool) -> tuple[Tensor, int]:
        """Return a block's output and the number after its layers'."""
        y = self.activation(self.normalised(self.convolved(x, number, stride), number, train))
        y = self.normalised(self.convolved(y, number + 1), number + 1, train)
        number += 2
        if not self.spec["shortcuts"]:
            return self.activation(y), number
        if stride > 1 and self.spec["name"] == "resnet18":
            x, number = self.normalised(self.convolved(x, number, stride), number, train), number + 1
        elif stride > 1:
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return self.activation(y + x), number

    def convolved(self, x: Tensor, number: int, stride: int = 1) -> Tensor:
        weight = self.params[f"W{number}"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)

    def activation(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.spec["activation"]](x)

    def residual(self, x: Tensor, train: bool) -> Tensor:
        """Return the logits of a residual network."""
        y, number = self.activation(self.normalised(self.convolved(x, 1), 1, train)), 2
        stages, blocks = STAGES[self.spec["name"]]
        for stage in range(stages):
            for block in range(blocks):
                y, number = self.block(y, number, 2 if stage and not block else 1, train)
        y = y.mean((2, 3))
        if train:
            y = self.dropped(y, stream=self.stream)
        return self.linear(y, "a", number)

    def linear(self, x: Tensor, part: str, number: int) -> Tensor:
        weight, bias = self.params[f"W{number}"], self.params.get(f"b{number}")
        if part == "a":
            return F.linear(x, weight.T, bias)
        assert weight.shape[2:] == KERNELS[part[0]]
        return F.conv2d(x, weight, bias, padding=int(part[1]))

    def normalised(self, x: Tensor, number: int, train: bool) -> Tensor:
        mean, var = f"running_mean{number}", f"running_var{number}"
        affine = self.params[f"gamma{number}"], self.params[f"beta{number}"]
        y, self.running[mean], self.running[var] = batch_norm(x, self.running[mean], self.running[var], *affine, train)
        return y

    def dropped(self, x: Tensor, stream: int) -> Tensor:
        ratio = self.spec["dropout"]
        return x * mask(tuple(x.shape), ratio, self.spec["seed"], stream, self.passes) / (1 - ratio)


def batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, train: bool, momentum=0.9, eps=1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return PyTorch's batch normalization, and the running mean and variance after it by this project's conventions.

    PyTorch's momentum is the weight of the new value, here it is that of the old one. PyTorch's running variance uses
    the unbiased variance of the batch, this project's the biased one.
    """
    new_mean, new_var = mean.clone(), var.clone()
    y = F.batch_norm(x, new_mean, new_var, gamma, beta, train, 1 - momentum, eps)
    if not train:
        return y, mean, var
    count = x.numel() // x.shape[1]
    return y, new_mean, momentum * var + (new_var - momentum * var) * (count - 1) / count


def mask(shape: tuple[int, ...], ratio: float, seed: int, stream: int, passes: int) -> Tensor:
    """Return this project's dropout mask for a pass: ones and zeros."""
    graph = Graph(IndexMask(Input("x", shape), ratio, seed, stream))
    graph.passes = passes
    return torch.from_numpy(graph.forward(x=torch.ones(shape, dtype=torch.float64).numpy()))
