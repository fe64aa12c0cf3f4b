"""CUDA C of expressions: the lines that compute what a thread writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isinf, isnan
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.affine import Index
from nl_nodes.compiler.cuda.pull import Expression
from nl_nodes.compiler.cuda.regions import Region, Store

TYPES = {
    "f4": "float",
    "f8": "double",
    "b1": "bool",
    "i1": "signed char",
    "i2": "short",
    "i4": "int",
    "i8": "long long",
    "u1": "unsigned char",
    "u2": "unsigned short",
    "u4": "unsigned int",
    "u8": "unsigned long long",
}
"""The C type of each dtype."""

INFIX = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
    "logical_and": "&&",
    "logical_or": "||",
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
}
"""C operators of ufuncs."""

PREFIX = {"negative": "-", "logical_not": "!", "positive": "", "conjugate": ""}

SHARED = {"maximum": "largest", "minimum": "smallest", "absolute": "magnitude", "sign": "sign", "reciprocal": "1 / "}
"""Functions of `PRELUDE`, for all types."""

PRELUDE = r"""
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif
#ifndef EACH_THREAD
#define EACH_THREAD
#define THEN_EACH_THREAD __syncthreads();
#endif
typedef unsigned long long u64;
template <class T> __device__ __forceinline__ T largest(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T smallest(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T magnitude(T a) { return a < 0 ? -a : a + 0; }
template <class T> __device__ __forceinline__ T sign(T a) { return a > 0 ? T(1) : a < 0 ? T(-1) : a; }
// Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3 (2011): Philox4x64-10.
__device__ __forceinline__ u64 philox(u64 key0, u64 key1, u64 counter, u64 word)
{
    u64 c0 = word / 4, c1 = counter, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        u64 hi0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), lo0 = 0xD2E7470EE14C6C93ULL * c0;
        u64 hi1 = __umul64hi(0xCA5A826395121157ULL, c2), lo1 = 0xCA5A826395121157ULL * c2;
        c0 = hi1 ^ c1 ^ key0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ key1;
        c3 = lo0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    return word % 4 == 0 ? c0 : word % 4 == 1 ? c1 : word % 4 == 2 ? c2 : c3;
}
"""
"""What all kernels share.

A kernel whose threads exchange values is written as phases: EACH_THREAD begins the first and THEN_EACH_THREAD, a
barrier, each other one. No variable of a thread outlives its phase, so that a processor can run a phase as a loop.
"""

PASS_INDEX = "pass_index"
"""The parameter of kernels with random words: the index of the pass, in memory."""


class Arguments:
    """The pointers that a kernel takes, one for each block and dtype, in the order of their first use."""

    def __init__(self) -> None:
        self.order: list[tuple[Any, str]] = []
        self.written: set[tuple[Any, str]] = set()
        self.random = False

    def name(self, block: Any, dtype: str, write: bool = False) -> str:
        """Return the parameter of a block."""
        key = (block, dtype)
        if key not in self.order:
            self.order.append(key)
        if write:
            self.written.add(key)
        return f"p{self.order.index(key)}"

    def parameters(self) -> str:
        """Return the parameter list."""
        found = [
            f"{TYPES[key[1]]} *p{n}" if key in self.written else f"const {TYPES[key[1]]} *__restrict__ p{n}"
            for n, key in enumerate(self.order)
        ]
        return ", ".join(found + ([f"const u64 *{PASS_INDEX}"] if self.random else []))


class Lines:
    """The lines of C that compute the expressions of one region.

    Args:
        nodes: the expressions.
        arguments: the kernel's.
        names: the C variable of each axis.
        totals: the C expressions of finished sums.
    """

    def __init__(
        self,
        nodes: Sequence[Expression],
        arguments: Arguments,
        names: Mapping[int, str],
        totals: Sequence[str] = (),
    ) -> None:
        self._nodes, self._arguments, self._names, self._totals = nodes, arguments, names, totals
        self.lines: list[str] = []
        self._variables: dict[int, str] = {}
        self._bases: dict[tuple[tuple[int, int], ...], str] = {}

    def store(self, store: Store) -> None:
        """Add the lines that compute and write an element."""
        (node,) = store.nodes
        value = self.value(node, store.dtype)
        self.lines.append(f"{self.element(store.block, store.dtype, store.address, write=True)} = {value};")

    def element(self, block: Any, dtype: str, address: Index, write: bool = False) -> str:
        """Return the array element at an address."""
        item = np.dtype(dtype).itemsize
        constant, *coefficients = address
        terms = tuple((a, k // item) for a, k in enumerate(coefficients) if k)
        name = self._arguments.name(block, dtype, write)
        offset = constant // item
        if not terms:
            return f"{name}[{offset}]"
        return f"{name}[{self._base(terms)} + {offset}]" if offset else f"{name}[{self._base(terms)}]"

    def _base(self, terms: tuple[tuple[int, int], ...]) -> str:
        """Return the variable that holds the region of an address that depends on the thread."""
        if terms not in self._bases:
            self._bases[terms] = f"a{len(self._bases)}"
            self.lines.append(f"const int {self._bases[terms]} = {self._linear(terms)};")
        return self._bases[terms]

    def _linear(self, terms: tuple[tuple[int, int], ...]) -> str:
        return " + ".join(self._names[a] if k == 1 else f"{self._names[a]} * {k}" for a, k in terms)

    def value(self, number: int, dtype: str) -> str:
        """Return an expression in a dtype; each is computed once, in a variable."""
        node = self._nodes[number]
        if node[0] == "const":
            return literal(node[1], dtype)
        own = self._dtype(node)
        if number not in self._variables:
            text = self._text(node)
            self._variables[number] = f"v{len(self._variables)}"
            self.lines.append(f"const {TYPES[own]} {self._variables[number]} = {text};")
        return self._variables[number] if own == dtype else f"({TYPES[dtype]}){self._variables[number]}"

    def _dtype(self, node: Expression) -> str:
        if node[0] == "op":
            return str(node[2][-1])
        return "u8" if node[0] == "bits" else str(node[1 if node[0] in ("cast", "sum", "select") else 2])

    def _text(self, node: Expression) -> str:
        kind = node[0]
        if kind == "load":
            return self.element(node[1], node[2], node[3])
        if kind == "total":
            return self._totals[node[1]]
        if kind == "cast":
            return self.value(node[2], node[1])
        if kind == "select":
            _, dtype, mask, chosen, other = node
            return f"{self.value(mask, 'b1')} ? {self.value(chosen, dtype)} : {self.value(other, dtype)}"
        if kind == "sum":
            return self._sum(*node[1:])
        if kind == "fold":
            _, name, dtype, arguments = node
            text = self.value(arguments[0], dtype) if arguments else neutral(name, dtype)
            for argument in arguments[1:]:
                text = combined(name, dtype, text, self.value(argument, dtype))
            return text
        if kind == "bits":
            return self._random(*node[1:])
        _, name, dtypes, arguments = node
        return self._operation(name, dtypes, arguments)

    def _sum(self, dtype: str, terms: Sequence[tuple[float, int]]) -> str:
        text = ""
        for weight, number in terms:
            value = self.value(number, dtype)
            sign = "- " if weight < 0 else "+ " if text else ""
            factor = "" if abs(weight) == 1 else f"{literal(abs(weight), dtype)} * "
            text += f" {sign}{factor}{value}"
        return text.strip() or literal(0, dtype)

    def _random(self, seed: int, stream: int, start: int, index: Index) -> str:
        self._arguments.random = True
        terms = tuple((a, k) for a, k in enumerate(index[1:]) if k)
        word = f"{start + index[0]}LL" + (f" + {self._linear(terms)}" if terms else "")
        return f"philox({seed}ULL, {stream}ULL, *{PASS_INDEX}, {word})"

    def _operation(self, name: str, dtypes: tuple[str, ...], arguments: tuple[int, ...]) -> str:
        values = [self.value(argument, dtype) for argument, dtype in zip(arguments, dtypes, strict=False)]
        single = "f" if dtypes[0] == "f4" else ""
        if name in INFIX:
            return f"{values[0]} {INFIX[name]} {values[1]}"
        if name in PREFIX:
            return f"{PREFIX[name]}{values[0]}"
        if name == "invert":
            return f"{'!' if dtypes[0] == 'b1' else '~'}{values[0]}"
        if name == "square":
            return f"{values[0]} * {values[0]}"
        if name in SHARED:
            return f"{SHARED[name]}({', '.join(values)})"
        if name == "power":
            return self._power(values, arguments[1], single)
        if name == "isfinite":
            return f"{values[0]} - {values[0]} == 0"
        if name in ("exp", "log", "log1p", "expm1", "tanh", "sqrt", "sin", "cos", "floor", "ceil"):
            return f"{name}{single}({values[0]})"
        raise NotImplementedError(f"kernels have no {name!r}")

    def _power(self, values: Sequence[str], exponent: int, single: str) -> str:
        node = self._nodes[exponent]
        known: dict[Any, str] = {-0.5: f"1 / sqrt{single}({values[0]})", 0.5: f"sqrt{single}({values[0]})"}
        return known.get(node[1] if node[0] == "const" else None, f"pow{single}({', '.join(values)})")


def combined(name: str, dtype: str, a: str, b: str) -> str:
    """Return one step of a reduction."""
    if name in ("maximum", "minimum"):
        return f"{SHARED[name]}({a}, {b})"
    if name not in ("add", "multiply", "logical_and", "logical_or"):
        raise NotImplementedError(f"kernels have no reduction by {name!r}")
    symbol = INFIX[name]
    return f"{a} {'||' if dtype == 'b1' and symbol == '+' else symbol} {b}"


def neutral(name: str, dtype: str) -> str:
    """Return what a reduction begins with."""
    lowest: Any = -np.inf if dtype.startswith("f") else np.iinfo(dtype).min if dtype != "b1" else False
    highest: Any = np.inf if dtype.startswith("f") else np.iinfo(dtype).max if dtype != "b1" else True
    starts = {"add": 0, "multiply": 1, "logical_and": True, "logical_or": False}
    return literal({**starts, "maximum": lowest, "minimum": highest}[name], dtype)


def literal(number: Any, dtype: str) -> str:
    """Return a number in C."""
    if dtype in ("f4", "f8"):
        number = np.dtype(dtype).type(number)
        if isnan(number):
            return f"({TYPES[dtype]})NAN"
        if isinf(number):
            return f"({TYPES[dtype]}){'-' if number < 0 else ''}INFINITY"
        text = f"{number:.9g}" if dtype == "f4" else f"{number:.17g}"
        return text + ("" if "." in text or "e" in text else ".0") + ("f" if dtype == "f4" else "")
    if dtype == "b1":
        return "true" if number else "false"
    return f"{int(number)}{'ULL' if dtype == 'u8' else 'LL' if dtype == 'i8' else ''}"


def coordinates(axes: Sequence[tuple[int, int]], flat: str, prefix: str) -> tuple[list[str], dict[int, str]]:
    """Return lines that take a flat number apart into places on axes, and the variable of each axis."""
    lines, names, inner = [], {}, 1
    for number, (axis, n) in reversed(list(enumerate(axes))):
        names[axis] = f"{prefix}{number}"
        quotient = flat if inner == 1 else f"{flat} / {inner}"
        lines.append(f"const int {names[axis]} = {quotient}{f' % {n}' if number else ''};")
        inner *= n
    return lines, names


def region_lines(region: Region, arguments: Arguments, flat: str) -> list[str]:
    """Return the lines of a thread of a region without sums."""
    lines, names = coordinates(region.axes, flat, "i")
    text = Lines(region.nodes, arguments, names)
    for store in region.stores:
        text.store(store)
    return lines + text.lines
