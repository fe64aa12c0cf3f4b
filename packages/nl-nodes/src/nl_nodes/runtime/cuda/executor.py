"""The executor of a GPU: a plan's calls as kernels and matrix products, captured into one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.errors import DeviceError
from nl_nodes.runtime.call import Call, CallFailed
from nl_nodes.runtime.cuda.card import Card, OutOfMemory, Refused
from nl_nodes.runtime.cuda.cublaslt import Matmul
from nl_nodes.runtime.cuda.products import describe
from nl_nodes.runtime.cuda.store import Algorithms
from nl_nodes.runtime.executor import Executor
from nl_nodes.typing import Shape


@dataclass
class Loaded:
    """Calls that are bound to functions of a GPU.

    Attributes:
        calls: each enqueues one call.
        graph: the graph of all of them, None where they are enqueued one by one.
        arrays: what the calls read and write, to keep its memory.
    """

    calls: list[Callable[[], None]] = field(default_factory=list)
    graph: Any = None
    arrays: list[Any] = field(default_factory=list)


class CudaExecutor(Executor):
    """The executor on one GPU.

    Loading runs the calls once, on memory that holds nothing yet, so that the driver loads all kernels; times the
    algorithms of products that are new; and captures all calls into a graph. A pass is one launch of the graph.

    Args:
        card: the GPU.
        tf32: whether factors of float32 products may be rounded to TF32.
        debug: enqueue each call by itself and wait for it, so that an error names its call.
    """

    chunked = False
    fused = True
    checks = True

    def __init__(self, card: Card, tf32: bool = False, debug: bool = False) -> None:
        super().__init__()
        if card.process != self.process:
            raise DeviceError("a GPU cannot be used in a fork of the process that uses it: start a new process")
        self.card, self.tf32, self.debug, self.lock = card, tf32, debug, card.lock
        self.algorithms = Algorithms(card.kind, card.lt.version)
        self._matmuls: dict[str, Matmul] = {}
        self._pass_index = card.zeros(8).view(np.uint64)

    def refuse_beyond_memory(self, size: int) -> None:
        """Raise `OutOfMemory` where the GPU has no room for a plan."""
        free = self.card.free()
        if size > free:
            raise OutOfMemory(size, free)

    def memory(self, size: int) -> Any:
        """Allocate `size` zero bytes on the GPU."""
        return self.card.zeros(size)

    def view(self, memory: Any, shape: Shape, dtype: Any, offset: int, strides: tuple[int, ...]) -> Any:
        """Return an array over memory of the GPU."""
        return self.card.view(memory, shape, dtype, offset, strides)

    def write(self, array: Any, value: Any) -> None:
        """Copy a value, of the host or of the GPU, to an array, without waiting for it."""
        with self._errors(), self.card.enqueuing():
            if isinstance(value, int | float):
                self.card.fill(array, value)
            else:
                self.card.write(array, value)

    def clocks(self, count: int) -> Any:
        """Return an array of the host for `count` times."""
        return np.zeros(count)

    def state(self) -> dict[str, object]:
        """Return the algorithms of the products."""
        return self.algorithms.state()

    def load_state(self, state: object) -> None:
        """Take the algorithms of the same kind of GPU and version of cublasLt."""
        self.algorithms.update(state)

    def load(self, calls: Sequence[Sequence[Call]]) -> Loaded:
        """Bind the calls, and capture them unless they are to be enqueued one by one."""
        (own,) = calls
        sources = {args[0].name: args[0] for name, args in own if name == "kernel"}
        one_by_one = self.debug or any(name == "clock" for name, _ in own)
        with self.lock, self._errors(), self.card.enqueuing():
            functions = self.card.load(list(sources.values())) if sources else {}
            loaded, products = Loaded(arrays=[args for _, args in own]), dict[str, _Product]()
            for call in own:
                loaded.calls.append(self._bound_call(call, functions, products))
            self._enqueue(loaded)
            self._choose(products)
            self.card.synchronize()
            if not one_by_one:
                loaded.graph = self._capture(loaded)
        return loaded

    def run(self, loaded: Loaded, pass_index: int) -> None:
        """Enqueue a pass; the caller holds the lock."""
        self.pass_index = pass_index
        with self._errors(), self.card.enqueuing():
            self.card.fill(self._pass_index, pass_index)
            if loaded.graph is None:
                self._enqueue(loaded)
            else:
                self.card.replay(loaded.graph)

    def _bound_call(self, call: Call, functions: dict[str, Any], products: dict[str, _Product]) -> Callable[[], None]:
        name, args = call
        if name == "kernel":
            source, *arrays = args
            used = [*arrays, self._pass_index] if source.random else arrays
            return partial(self.card.launch, functions[source.name], source.blocks, source.threads, used)
        if name == "matmul":
            a, b, out = args
            given = self.card.address(a), self.card.address(b), self.card.address(out)
            product, operands = describe(a, b, out, given, self.tf32)
            if product.key not in products:
                matmul = self._matmuls.setdefault(product.key, Matmul(self.card.lt, product))
                products[product.key] = _Product(self.card, matmul, self.algorithms.get(product.key), operands)
            return partial(products[product.key].enqueue, operands)
        if name == "clock":
            return partial(self._clock, *args)
        raise DeviceError(f"a plan for a GPU has no call {name!r}")

    def _clock(self, out: Any) -> None:
        self.card.synchronize()
        out[0] = perf_counter()

    def _enqueue(self, loaded: Loaded) -> None:
        for number, call in enumerate(loaded.calls):
            call()
            if self.debug:
                try:
                    self.card.synchronize()
                except RuntimeError as error:
                    raise CallFailed(number, str(error)) from None

    def _choose(self, products: dict[str, _Product]) -> None:
        """Time the algorithms of products that have none yet, and keep the fastest."""
        found = {key: fastest for key, product in products.items() if (fastest := product.choose()) is not None}
        if found:
            self.algorithms.add(found)

    def _capture(self, loaded: Loaded) -> Any:
        def enqueue() -> None:
            for call in loaded.calls:
                call()

        try:
            return self.card.capture(enqueue)
        except Refused as reason:
            warnings.warn(f"no CUDA graph, each kernel is launched by itself: {reason}", RuntimeWarning, stacklevel=2)
            return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the CUDA driver into a `DeviceError`."""
        try:
            yield
        except RuntimeError as error:
            fix = "" if self.debug else "; device.debug=true names the call"
            raise DeviceError(f"the GPU failed: {str(error).splitlines()[0]}{fix}") from error


class _Product:
    """One product of a plan, and the algorithm that computes all its calls."""

    def __init__(self, card: Card, matmul: Matmul, known: bytes | None, addresses: tuple[int, ...]) -> None:
        self._card, self._matmul, self._addresses = card, matmul, addresses
        self._offers = [] if known is not None and card.lt.accepts(matmul, known) else card.lt.offers(matmul)
        self._algorithm = self._offers[0] if self._offers else known

    def enqueue(self, addresses: tuple[int, ...]) -> None:
        """Enqueue the product of other operands of the same layouts."""
        assert self._algorithm is not None
        self._card.multiply(self._matmul, self._algorithm, addresses)

    def choose(self) -> bytes | None:
        """Take the fastest of the algorithms offered and return it; None where it was known before."""
        if not self._offers:
            return None
        times = [
            self._card.seconds(partial(self._card.multiply, self._matmul, offer, self._addresses))
            for offer in self._offers
        ]
        self._algorithm, self._offers = self._offers[times.index(min(times))], []
        return self._algorithm
