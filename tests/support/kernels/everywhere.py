"""`pytest --kernels`: every plan and every step of an optimizer runs as a GPU's kernels, on poisoned memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_nodes.compiler import Plan
from nl_nodes.device import device
from nl_training.verification.chain import Chain
from support.kernels.executor import KernelExecutor
from support.kernels.poison import poison
from support.kernels.recorded import RecordedSteps

TESTS = Path(__file__).parents[2]
WORKERS = "it is about threads and processes, their chunks, or another device"
COSTS = "it counts the calls or the memory of NumPy's executors"
CALLERS = "it is about who calls a network, which is the same for every executor"
BITS = "it expects a check of bits that needs no reference, in place of which kernels have one up to rounding"
BETWEEN = "it expects the memory that blocks share to stay as it is between two passes"
KERNELS = "it is about kernels beside NumPy already"
LEFT_OUT = {
    "unit/compiler/test_plan.py::test_workers_share_a_batch_that_is_large_enough": WORKERS,
    "unit/compiler/test_plan.py::test_a_failed_call_is_named_by_its_node_if_it_has_one": WORKERS,
    "unit/compiler/test_plan.py::test_other_loaded_calls_may_run_in_place_of_the_plans_own": BETWEEN,
    "unit/compiler/test_plan.py::test_nodes_work_as_the_executor_wants": WORKERS,
    "unit/compiler/test_plan.py::test_calls_between_two_barriers_are_of_one_round": WORKERS,
    "unit/models/test_barriers.py": WORKERS,
    "unit/models/test_compiled.py::test_more_workers_than_cores_give_the_same_bits": WORKERS,
    "unit/models/test_compiled.py::test_memory_does_not_grow_with_new_batch_sizes": COSTS,
    "unit/models/test_compiled.py::test_steps_allocate_only_numpys_small_buffers": COSTS,
    "unit/models/test_compiled.py::test_workers_end_with_the_network": WORKERS,
    "unit/models/test_compiled.py::test_workers_end_with_the_process": WORKERS,
    "unit/models/test_compiled.py::test_workers_start_beside_a_file_named_like_a_standard_module": WORKERS,
    "unit/models/test_compiled.py::test_killed_worker_raises_an_error": WORKERS,
    "unit/models/test_copies.py": CALLERS,
    "unit/models/test_counts.py": COSTS,
    "unit/models/test_interrupts.py": CALLERS,
    "unit/models/test_kernels.py": KERNELS,
    "unit/models/test_models.py::test_a_batch_beyond_all_memory_is_refused_by_the_plan": COSTS,
    "unit/models/test_profile.py": COSTS,
    "unit/models/test_summary.py::test_totals_are_those_of_profiled_steps": COSTS,
    "unit/models/test_threads.py": CALLERS,
    "unit/training/test_verification.py::test_gradient_wrong_only_in_float32_is_found": BITS,
    "unit/training/test_verification.py::test_plan_wrong_at_the_training_batch_size_is_reported": WORKERS,
    "unit/training/test_verification_links.py::test_links_on_another_device": WORKERS,
    "unit/training/test_verification_links.py::test_training_with_cut_products_and_panels_is_replayed_bit_by_bit": BITS,
    "unit/training/test_verification.py::test_large_batch_runs_through_the_reference_in_slices": BITS,
}
"""Tests that compile, but are of NumPy's executors by their nature, by file or by file and name; and why."""


def install() -> None:
    """Replace NumPy's executors."""
    device.executor = lambda kind, count, cut: KernelExecutor()  # type: ignore[attr-defined]
    Plan.__init__ = _as_kernels(Plan.__init__)  # type: ignore[method-assign]
    Plan.run = _poisoned(Plan.run)  # type: ignore[method-assign]
    Optimizer.update = _recorded(Optimizer.update)  # type: ignore[method-assign]
    Chain.executor = _equal_up_to_rounding  # type: ignore[method-assign]


def _equal_up_to_rounding(self: Chain, point: Any, what: str) -> Any:
    """Return the link that compares bits with NumPy's; kernels add numbers up in another order."""
    return replace(self.device(self.net.device.dtype, point, what), kind="executor")


def _as_kernels(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def run(self: Plan, graph: Any, spec: Any, executor: Any) -> None:
        init(self, graph, spec, executor if isinstance(executor, KernelExecutor) else KernelExecutor())

    return run


def _poisoned(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def poisoned(self: Plan, *args: Any, **options: Any) -> Any:
        poison(self)
        return run(self, *args, **options)

    return poisoned


def _recorded(update: Callable[..., None]) -> Callable[..., None]:
    """Return an update that is recorded where all parameters are one buffer, as those of a network are."""
    recorded: dict[int, tuple[Optimizer, RecordedSteps]] = {}

    @wraps(update)
    def run(self: Optimizer, params: Any, grads: Any) -> None:
        if not (self.elementwise and isinstance(params, FlatDict) and isinstance(grads, FlatDict)):
            update(self, params, grads)
            return
        _, steps = recorded.setdefault(id(self), (self, RecordedSteps()))
        steps.run(self, params, grads)

    return run


def deselected(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests to leave out.

    Raises:
        pytest.UsageError: where a name in the list is none of a file that is run.
    """
    names = {item: f"{item.path.relative_to(TESTS)}::{getattr(item, 'originalname', item.name)}" for item in items}
    files = {name.split("::")[0] for name in names.values()}
    known = {*files, *names.values()}
    if unknown := [name for name in LEFT_OUT if name not in known and name.split("::")[0] in files]:
        raise pytest.UsageError(f"there is no test {unknown[0]}")
    return [item for item, name in names.items() if name in LEFT_OUT or name.split("::")[0] in LEFT_OUT]
