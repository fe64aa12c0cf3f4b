"""Errors in the compiler and the runtime: lowering, memory plan, rules and executors."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from nl_nodes import Device, Dot, MulConst
from nl_nodes.compiler import Plan, Rule, plan
from nl_nodes.compiler.lower import arena
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.lower.trace import Tape
from nl_nodes.compiler.lower.traced_worker import TracedWorker
from nl_nodes.compiler.rewrite import rules
from nl_nodes.runtime import Executor, threads
from support.plants.registry import IMAGES, NORMALISED, ROWS, in_workers, plant, wrap


@plant("executor", ROWS)
def in_processes_alone() -> None:
    """Worker processes multiply 0.01 % too large."""
    in_workers("matmul", "out *= 1.0001")


@plant("executor", ROWS)
def in_processes_on_large_arrays() -> None:
    """Worker processes multiply 1 % too large, in products above 40 numbers."""
    in_workers("matmul", "out *= 1 + 0.01 * (out.size > 40)")


@plant("executor", NORMALISED | {"device": Device(threads=2, workers="threads")})
def barrier_left_out() -> None:
    """A worker reads a sum without waiting for the first worker, which happens to be early enough."""

    def all_reduce_sum(self, x):
        if self.count == 1:
            return x
        slots = self.shared_empty((self.count, *x.shape), x.dtype)
        slots[self.number] = x
        self.barrier()
        result = self.shared_empty(x.shape, x.dtype)
        if self.number == 0:
            np.add.reduce(slots, axis=0, out=result)
        return result

    TracedWorker.all_reduce_sum = all_reduce_sum
    threads.parallel_workers = lambda count: 1


@plant("plan", NORMALISED)
def with_two_workers_alone() -> None:
    """Sums over workers are wrong where there are two."""
    wrap(TracedWorker, "all_reduce_sum", lambda right, self, x: right(self, x) * (1.001 if self.count == 2 else 1))


@plant("plan", ROWS | {"device": Device(threads=3)})
def with_three_workers_alone() -> None:
    """Sums over workers are wrong where there are three."""
    wrap(TracedWorker, "all_reduce_sum", lambda right, self, x: right(self, x) * (1.001 if self.count == 3 else 1))


@plant("plan", ROWS)
def one_worker_left_out() -> None:
    """A gradient adds the first worker's part twice, and no other."""
    wrap(Lowering, "_sum_into", lambda right, self, parts, target: right(self, [parts[0]] * len(parts), target))


@plant("plan", ROWS)
def bias_left_out_by_a_rule() -> None:
    """The rewrite rule for affine layers leaves the bias out."""

    def without_bias(x, w, b):
        return None if rules.affine.replacement(x, w, b) is None else Dot(x, w)

    wrong = Rule(rules.affine.pattern, without_bias)
    plan.RULES = tuple(tuple(wrong if rule is rules.affine else rule for rule in stage) for stage in rules.RULES)
    import_module("nl_training.verification.chain").RULES = plan.RULES


@plant("plan", NORMALISED)
def different_nodes_merged() -> None:
    """Products of one shape with one constant are merged, whatever their inputs."""

    def change(right, node, same, provenance):
        if isinstance(node, MulConst):
            return same.setdefault((node.shape, str(node.attributes)), node)
        return right(node, same, provenance)

    wrap(import_module("nl_nodes.compiler.rewrite.engine"), "eliminate_common_subexpressions", change)


@plant("plan", IMAGES)
def overlapping_memory() -> None:
    """Three arrays share memory with one that is still in use."""

    def change(right, blocks):
        places, end = right(blocks)
        passing = [b for b in places if not b.persistent]
        return {b: places[passing[0]] if b in passing[-3:] else at for b, at in places.items()}, end

    wrap(arena, "assign_offsets", change)


@plant("plan", ROWS)
def gradient_never_written() -> None:
    """The gradient of one bias is not written."""

    def change(right, self, leaf, grads, partial):
        if leaf.name != "b2":
            right(self, leaf, grads, partial)
        else:
            self.grads[leaf.name] = self.tapes[0].of(self.memory.external(self.spec.gradients[leaf.name]))

    wrap(Lowering, "_leaf_gradient", change)


@plant("precision", ROWS)
def constants_off_in_float32() -> None:
    """Constants are 0.01 % too large in float32."""

    def change(right, self, array):
        array = np.asarray(array)
        return right(self, array * np.float32(1.0001) if array.dtype == np.float32 else array)

    wrap(Tape, "constant", change)


@plant("precision", NORMALISED)
def statistics_exchanged_in_float32() -> None:
    """In float32, a batch norm's new running mean and variance are exchanged."""

    def change(right, self, *arguments, **options):
        right(self, *arguments, **options)
        if self.updates and self.results[0].dtype == np.float32:
            (mean, first), (variance, second), *others = self.updates.items()
            self.updates = {mean: second, variance: first, **dict(others)}

    wrap(Lowering, "__init__", change)


def on_pass(first: int) -> None:
    """Scale gradients from a pass on."""

    def change(right, self, feeds, pass_index, loaded=None):
        found = right(self, feeds, pass_index, loaded)
        if pass_index >= first:
            for grad in self.grads.values():
                grad *= 1.001
        return found

    wrap(Plan, "run", change)


@plant("plan", ROWS)
def from_the_second_pass() -> None:
    """Gradients are wrong from the second pass on."""
    on_pass(1)


@plant("plan", ROWS)
def from_the_thousandth_pass() -> None:
    """Gradients are wrong from the thousandth pass on."""
    on_pass(999)


@plant("step", ROWS)
def after_a_change_of_batch_size() -> None:
    """Gradients are wrong in the first pass after a batch of another size."""
    last: list[Plan] = []
    ran: set[Plan] = set()

    def change(right, self, feeds, pass_index, loaded=None):
        found = right(self, feeds, pass_index, loaded)
        if self in ran and last != [self]:
            for grad in self.grads.values():
                grad *= 1.001
        ran.add(self)
        last[:] = [self]
        return found

    wrap(Plan, "run", change)


@plant("plan", NORMALISED)
def masks_of_the_previous_pass() -> None:
    """Dropout draws the masks of the previous pass."""

    def change(right, self, seed, stream, start, target):
        self.pass_index -= 1
        right(self, seed, stream, start, target)
        self.pass_index += 1

    wrap(Executor, "_random_bits", change)


@plant("plan", NORMALISED)
def masks_repeated_from_the_tenth_pass() -> None:
    """Dropout's masks are the same from the tenth pass on."""

    def change(right, self, seed, stream, start, target):
        passes, self.pass_index = self.pass_index, min(self.pass_index, 9)
        right(self, seed, stream, start, target)
        self.pass_index = passes

    wrap(Executor, "_random_bits", change)


@plant("plan", NORMALISED)
def same_masks_for_all_workers() -> None:
    """Each worker draws the first worker's masks."""
    wrap(TracedWorker, "random_bits", lambda right, self, start: right(self, 0))


@plant("plan", NORMALISED)
def statistics_never_updated() -> None:
    """Running statistics stay as they are."""
    wrap(Plan, "store_updates", lambda right, self: None)


@plant("plan", IMAGES)
def drifting_bias() -> None:
    """Each pass adds a millionth to a bias."""

    def change(right, self, feeds, pass_index, loaded=None):
        for value in self.graph.leaves.values():
            if value.name == "b1":
                value.value += 1e-6
        return right(self, feeds, pass_index, loaded)

    wrap(Plan, "run", change)
