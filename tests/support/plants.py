"""Errors planted into what trains, each of which `verify=strict` must refuse before the first step.

Each is planted at run time, in a process of its own: `python -c "from support.plants import main; main('NAME')"`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from nl_layers import BatchNormalization, flat, optimizers
from nl_layers.schedules import Cosine
from nl_models import Network, build
from nl_nodes import Device, UserError, graph
from nl_nodes.compiler import Plan, arena, rules
from nl_nodes.compiler.fused import Affine, Conv, LabelLogSoftmax, Normalize
from nl_nodes.compiler.fused.winograd import Winograd
from nl_nodes.compiler.record import Member, Recording
from nl_nodes.compiler.trace import Tape
from nl_nodes.compiler.workers import Team
from nl_nodes.nodes.functions import Sigmoid
from nl_nodes.nodes.images import Img2Matrix
from nl_nodes.nodes.masks import ValueMask
from nl_training import trainer
from nl_training.data import Split
from nl_training.verification import Training, verify
from support.fused_contract import pieces_of

SIZES = frozenset({12, 5})
IMAGES: dict[str, Any] = {"name": "cnn8", "width": 16, "input_shape": (1, 7, 7), "classes": 4}
NORMALISED = IMAGES | {"batch_norm": True, "dropout": 0.3}
ROWS: dict[str, Any] = {"name": "mlp", "hidden": (5, 5, 5), "input_shape": (1, 4, 4), "classes": 3}

STACK = ExitStack()
"""What lasts to the end of the process."""

CLEAN = {"images": IMAGES, "normalised": NORMALISED, "rows": ROWS}

PLANTS: dict[str, tuple[Callable[[], None], dict[str, Any], dict[str, Any]]] = {}
"""What plants an error, the network and the optimizer with its settings."""


def plant(network: dict[str, Any], **optimizer: Any) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def enrol(function: Callable[[], None]) -> Callable[[], None]:
        PLANTS[function.__name__] = function, network, {"kind": "Adam", **optimizer}
        return function

    return enrol


def wrap(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Put `change(right, *arguments)` in a function's place."""
    right = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: change(right, *a, **k))


def scaled(found: Any, factor: float = 1.001) -> Any:
    return tuple(None if f is None else f * factor for f in found) if isinstance(found, tuple) else found * factor


def backward_wrong(node: type, when: Callable[[Any], bool], factor: float = 1.001) -> None:
    def change(right, self, kept, dy):
        found = right(self, kept, dy)
        return scaled(found, factor) if when(dy) else found

    wrap(node, "backward", change)


@plant(ROWS)
def rows_above_eight() -> None:
    backward_wrong(Affine, lambda dy: dy.shape[0] > 4)


@plant(ROWS)
def in_float32_alone() -> None:
    backward_wrong(Affine, lambda dy: dy.dtype == np.float32)


@plant(ROWS)
def in_float32_above_four_rows() -> None:
    backward_wrong(Affine, lambda dy: dy.dtype == np.float32 and dy.shape[0] > 4)


@plant(ROWS)
def reference_in_float32_alone() -> None:
    ROWS["device"] = Device(compile=False)
    backward_wrong(ValueMask, lambda dy: dy.dtype == np.float32)


def in_workers(function: str, wrong: str) -> None:
    """Let worker processes, which import nothing of this one, compute `wrong` after a function of NumPy."""
    folder = Path(mkdtemp())
    folder.joinpath("sitecustomize.py").write_text(
        "import numpy as np\n"
        "from importlib import import_module\n"
        "team = import_module('nl_nodes.compiler.workers.team')\n"
        "right = team.function\n"
        "def wrong(name):\n"
        "    def call(a, b, out):\n"
        f"        np.{function}(a, b, out)\n"
        f"        {wrong}\n"
        f"    return call if name == '{function}' else right(name)\n"
        "team.function = wrong\n"
    )
    sys.path.insert(0, str(folder))


@plant(ROWS)
def in_processes_alone() -> None:
    in_workers("matmul", "out *= 1.0001")


@plant(ROWS)
def in_processes_on_large_arrays() -> None:
    in_workers("matmul", "out *= 1 + 0.01 * (out.size > 40)")


@plant(NORMALISED)
def with_two_workers_alone() -> None:
    wrap(Member, "total", lambda right, self, x: right(self, x) * (1.001 if self.count == 2 else 1))


@plant(IMAGES)
def without_the_last_smaller_piece() -> None:
    STACK.enter_context(pieces_of(4))

    def change(right, self, step):
        first, *others = right(self, step)
        return [first, *(part for part in others if part.shape == first.shape)]

    wrap(Winograd, "parts", change)


@plant(IMAGES)
def on_odd_maps() -> None:
    backward_wrong(Conv, lambda dy: dy.shape[0] % 2 == 1)


@plant(IMAGES)
def where_a_rectifier_stands_at_zero() -> None:
    def change(right, self, kept, *inputs):
        y = right(self, kept, *inputs)
        kept.mask = inputs[0].real >= self.threshold
        return y

    wrap(ValueMask, "forward", change)


@plant(ROWS | {"activation": "sigmoid", "init": 2.0})
def where_an_activation_is_saturated() -> None:
    def change(right, self, kept, dy):
        return right(self, kept, dy) + kept.xp.where(kept.output.real > 0.9999, 1e-4 * dy, 0)

    wrap(Sigmoid, "backward", change)


def on_pass(first: int) -> None:
    def change(right, self, feeds, pass_index, loaded=None):
        found = right(self, feeds, pass_index, loaded)
        if pass_index >= first:
            for grad in self.grads.values():
                grad *= 1.001
        return found

    wrap(Plan, "run", change)


@plant(ROWS)
def from_the_second_pass() -> None:
    on_pass(1)


@plant(ROWS)
def from_the_third_pass() -> None:
    on_pass(2)


@plant(NORMALISED)
def masks_of_the_pass_before() -> None:
    def change(right, self, seed, stream, start, target):
        self.pass_index -= 1
        right(self, seed, stream, start, target)
        self.pass_index += 1

    wrap(Team, "_words", change)


@plant(NORMALISED)
def masks_alike_for_all_workers() -> None:
    wrap(Member, "words", lambda right, self, start: right(self, 0))


@plant(ROWS)
def gradients_of_one_shape_exchanged() -> None:
    def change(right, self, x, t):
        done = right(self, x, t)
        w2, w3 = done.grads["W2"].copy(), done.grads["W3"].copy()
        done.grads["W2"][...], done.grads["W3"][...] = w3, w2
        return done

    wrap(Network, "step", change)


@plant(NORMALISED)
def statistics_never_updated() -> None:
    wrap(Plan, "store_updates", lambda right, self: None)


@plant(NORMALISED)
def momentum_the_wrong_way_round() -> None:
    def change(right, self, running, batch):
        self.momentum = 1 - self.momentum
        found = right(self, running, batch)
        self.momentum = 1 - self.momentum
        return found

    wrap(BatchNormalization, "_follow", change)


@plant(ROWS, weight_decay=1e-3)
def weight_decay_on_biases() -> None:
    flat.decays = lambda name: True


@plant(ROWS, weight_decay=1e-3)
def weight_decay_doubled() -> None:
    wrap(trainer, "add_weight_decay", lambda right, params, grads, rate: right(params, grads, 2 * rate))


@plant(ROWS, weight_decay=1e-3, kind="SGD")
def weight_decay_forgotten() -> None:
    trainer.add_weight_decay = lambda params, grads, rate: None


@plant(ROWS, kind="AdamW")
def decoupled_decay_on_biases() -> None:
    optimizers.decayed = lambda params: [params.flat]


@plant(ROWS)
def eps_inside_the_root() -> None:
    def step(self, param, grad, mean, square_mean):
        mean += (1 - self.beta1) * (grad - mean)
        square_mean += (1 - self.beta2) * (grad * grad - square_mean)
        root = np.sqrt(square_mean / (1 - self.beta2**self.steps) + self.eps)
        param -= self.lr / (1 - self.beta1**self.steps) * mean / root

    optimizers.Adam.step = step


@plant(ROWS)
def steps_not_counted() -> None:
    def change(right, self, params, grads):
        self.steps = 0
        right(self, params, grads)

    wrap(optimizers.Adam, "update", change)


@plant(ROWS, kind="Momentum")
def velocity_forgotten() -> None:
    def change(right, self, param, grad, velocity):
        velocity[...] = 0
        right(self, param, grad, velocity=velocity)

    wrap(optimizers.Momentum, "step", change)


@plant(ROWS, kind="Nesterov")
def nesterov_without_looking_ahead() -> None:
    optimizers.Nesterov.step = optimizers.Momentum.step


@plant(ROWS, kind="AdaGrad")
def squares_not_summed() -> None:
    def change(right, self, param, grad, square_sum):
        square_sum *= 0.999
        right(self, param, grad, square_sum=square_sum)

    wrap(optimizers.AdaGrad, "step", change)


@plant(ROWS, kind="RMSprop")
def decay_the_wrong_way_round() -> None:
    def change(right, self, param, grad, square_mean):
        self.decay = 1 - self.decay
        right(self, param, grad, square_mean=square_mean)
        self.decay = 1 - self.decay

    wrap(optimizers.RMSprop, "step", change)


@plant(ROWS)
def schedule_a_step_late() -> None:
    wrap(Cosine, "factor", lambda right, self, epoch, epochs: right(self, max(epoch - 0.5, 0), epochs))


@plant(ROWS)
def schedule_ignored() -> None:
    Cosine.factor = lambda self, epoch, epochs: 1.0


@plant(ROWS)
def loss_scaled() -> None:
    def change(right, self, x, t):
        loss, logits = right(self, x, t)
        return loss * 1.001, logits

    wrap(Network, "_train", change)


@plant(ROWS)
def gradient_scaled_in_the_network() -> None:
    def change(right, self, x, t):
        done = right(self, x, t)
        done.grads.flat *= 1.01
        return done

    wrap(Network, "step", change)


@plant(ROWS)
def labels_of_another_integer_type() -> None:
    def change(right, self, t, count):
        found = right(self, t, count)
        return (found + 1) % self.classes if np.asarray(t).dtype == np.uint8 else found

    wrap(Network, "_labels", change)


@plant(ROWS)
def negative_strides() -> None:
    wrap(Device, "array", lambda right, self, x: right(self, x[::-1] if getattr(x, "strides", (0,))[:1] < (0,) else x))


@plant(ROWS)
def images_scaled_in_float32() -> None:
    wrap(Device, "array", lambda right, self, x: right(self, x) * np.float32(1.001 if self.dtype == "float32" else 1))


@plant(IMAGES)
def a_buffer_that_creeps() -> None:
    def change(right, self, feeds, pass_index, loaded=None):
        for value in self.graph.leaves.values():
            if value.name == "b1":
                value.value += 1e-6
        return right(self, feeds, pass_index, loaded)

    wrap(Plan, "run", change)


@plant(NORMALISED)
def normalisation_wrong() -> None:
    backward_wrong(Normalize, lambda dy: True)


@plant(ROWS)
def loss_gradient_wrong() -> None:
    backward_wrong(LabelLogSoftmax, lambda dy: True)


@plant(IMAGES)
def windows_overwrite() -> None:
    def change(right, self, kept, dy):
        return right(self, kept, dy) * (1 + 1e-6)

    wrap(Img2Matrix, "backward", change)


@plant(ROWS)
def gradients_overwrite_each_other() -> None:
    graph._accumulate = lambda grads, node, dy: grads.__setitem__(node, dy * (1 + 1e-5))


@plant(ROWS)
def broadcast_averaged() -> None:
    wrap(graph, "unbroadcast", lambda right, x, shape: right(x, shape) * (0.999 if x.shape != shape else 1))


@plant(ROWS)
def one_workers_part_left_out() -> None:
    wrap(Recording, "_sum_of", lambda right, self, parts, target: right(self, [parts[0]] * len(parts), target))


@plant(IMAGES)
def blocks_that_overlap() -> None:
    def change(right, blocks):
        places, end = right(blocks)
        passing = [b for b in places if not b.lasting]
        return {b: places[passing[0]] if b in passing[-3:] else at for b, at in places.items()}, end

    wrap(arena, "place", change)


@plant(ROWS)
def constants_off_in_float32() -> None:
    def change(right, self, array):
        array = np.asarray(array)
        return right(self, array * np.float32(1.0001) if array.dtype == np.float32 else array)

    wrap(Tape, "constant", change)


@plant(ROWS)
def a_rule_that_drops_the_bias() -> None:
    def change(right, node):
        found = right(node)
        return None if found is None else rules.Dot(*found.inputs[:2])

    wrong = lambda node: change(rules.affine, node)  # noqa: E731
    stages = tuple(tuple(wrong if rule is rules.affine else rule for rule in stage) for stage in rules.RULES)
    from nl_nodes.compiler import plan

    plan.RULES = stages


@plant(NORMALISED)
def nodes_merged_that_differ() -> None:
    def change(right, node, same, sources):
        return same.setdefault((type(node), node.inputs), node) if node.inputs else node

    wrap(import_module("nl_nodes.compiler.rewrite"), "_merged", change)


@plant(ROWS)
def a_gradient_left_from_before() -> None:
    def change(right, self, leaf, gradients, grads, partial):
        if leaf.name != "b2":
            right(self, leaf, gradients, grads, partial)
        else:
            self.grads[leaf.name] = self.tapes[0].of(self.memory.outside(gradients[leaf.name]))

    wrap(Recording, "_leaf_gradient", change)


def training(kind: str, weight_decay: float = 0.0) -> Training:
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, *NET[0].input_shape)), rng.integers(0, NET[0].classes, 9))
    return Training(train, SIZES, getattr(optimizers, kind)(), Cosine(), weight_decay)


NET: list[Network] = []


def main(name: str) -> None:
    """Plant an error, or none where the name is one of `CLEAN`, and verify; print `accepted`, or why not."""
    if name in CLEAN:
        network, optimizer = CLEAN[name], {"kind": "Adam"}
    else:
        function, network, optimizer = PLANTS[name]
        function()
    NET.append(build(**{"device": Device(threads=2), **network}))
    try:
        print("accepted:", *verify(NET[0], "strict", 1e6, training=training(**optimizer)).lines())
    except UserError as error:
        print("refused:", error)
