"""Whole passes through kernels: models beside exact passes, the cases of all nodes beside NumPy; and their costs."""

from __future__ import annotations

import pytest
from support.contract import of_node
from support.kernels.comparison import case_error
from support.kernels.executor import CACHE, COMPILER, NO_COMPILER
from support.kernels.forms import ERROR, FORMS, WIDTHS, model
from support.kernels.full_width import LIMITS, kernels_of
from support.kernels.networks import network_error
from support.kernels.nvrtc import NO_NVRTC, compiled, installed
from support.node_cases import NODE_CASES

from nl_nodes.cases import Case
from nl_nodes.compiler.cuda.check import count, hazards
from nl_nodes.compiler.cuda.launch import launches
from nl_nodes.compiler.cuda.text import PRELUDE

pytestmark = pytest.mark.kernels
runs = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
ARCHITECTURES = (80, 90, 100)
REGISTERS = CACHE / "registers"
"""Registers and spilled bytes of each kernel, a file for each model and GPU."""


@runs
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WIDTHS)
def test_a_model_in_kernels_is_the_model(name: str, form: str) -> None:
    net = model(name, form)
    for batch, train in ((20, True), (5, True), (5, False)):
        assert network_error(net, batch, train) <= ERROR


@runs
@pytest.mark.parametrize("case", NODE_CASES)
def test_a_node_in_kernels_is_the_node(case: Case) -> None:
    assert case_error(of_node(case)) <= ERROR


@pytest.mark.parametrize("form", LIMITS)
def test_a_step_takes_few_launches_and_bytes_and_has_no_hazard(form: str) -> None:
    program, kernels = kernels_of(form)
    found, limit = count(program, kernels), LIMITS[form]
    assert found.products == limit.products
    assert found.launches <= limit.launches
    assert found.bytes <= limit.bytes
    assert not hazards(program, kernels)


@pytest.mark.skipif(not installed(), reason=NO_NVRTC)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", LIMITS)
def test_kernels_compile_for_a_gpu_and_keep_to_its_registers(form: str, architecture: int) -> None:
    _, kernels = kernels_of(form)
    sources = {source.name: source for kernel in kernels if kernel.kind != "gemm" for source, _ in launches(kernel)}
    usages = compiled(PRELUDE + "\n".join(source.text for source in sources.values()), architecture)
    assert usages.keys() == sources.keys()
    REGISTERS.mkdir(parents=True, exist_ok=True)
    rows = sorted((usage.registers, usage.spilled, name) for name, usage in usages.items())
    text = "\n".join(f"{registers:4} {spilled:4} {name}" for registers, spilled, name in rows)
    (REGISTERS / f"{form}, sm_{architecture}.txt").write_text(text)
    assert not [name for name, usage in usages.items() if usage.spilled]
