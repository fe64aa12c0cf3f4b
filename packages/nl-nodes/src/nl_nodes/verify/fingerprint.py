"""Fingerprint of a graph, and the hash of the code that runs and verifies it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

import nl_nodes.graph
from nl_nodes.device.backend import backend_of
from nl_nodes.device.blas import blas_versions
from nl_nodes.graph import Graph
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Constant, Leaf


def fingerprint(graph: Graph, modules: Iterable[str] = ()) -> str:
    """Return the SHA-256 of a graph: its nodes with their attributes and shapes, edges, leaves, and code.

    It is the same in every process and does not depend on the values of inputs, parameters and buffers. It includes
    the values of constants.

    Args:
        graph: the graph.
        modules: see `code_hash`.
    """
    return _sha(json.dumps({"code": code_hash(graph, modules), "graph": describe(graph)}, sort_keys=True))


def describe(graph: Graph) -> dict[str, Any]:
    """Return the graph as plain values; nodes are numbered by their index in `graph.order`."""
    place = {node: number for number, node in enumerate(graph.order)}
    return {
        "nodes": [_node(node, place) for node in graph.order],
        "outputs": [place[node] for node in graph.outputs],
        "updates": sorted([place[buffer], place[node]] for buffer, node in graph.updates.items()),
    }


def code_hash(graph: Graph, modules: Iterable[str] = ()) -> str:
    """Return the SHA-256 of all code that runs and verifies a graph, and of the versions of its dependencies.

    It covers the source of every package that defines a class of the nodes, this package included; the current
    bytecode of the classes' methods, so that a method patched at run time is noticed; and the versions of Python,
    NumPy and BLAS.

    Args:
        graph: the graph.
        modules: names of further modules to include, such as those of layers and of the training step.
    """
    classes = sorted({kind for node in graph.order for kind in _lineage(type(node))}, key=_name)
    files = {file for name in {__name__, *modules, *(kind.__module__ for kind in classes)} for file in _files(name)}
    texts = sorted(_sha(file.read_bytes()) for file in files)
    methods = {_name(kind): [[name, code] for name, code in _methods(kind)] for kind in classes}
    versions = [platform.python_version(), np.__version__, *blas_versions()]
    return _sha(json.dumps([texts, methods, versions], sort_keys=True))


def mutated_code() -> dict[str, str]:
    """Return the SHA-256 of the modules that the mutation gate mutates: "nodes", and the compiler's "fused" nodes."""
    return {kind: _sha("".join(_sha(file.read_bytes()) for file in files)) for kind, files in mutated_files().items()}


def mutated_files() -> dict[str, list[Path]]:
    """Return the files of the modules that the mutation gate mutates, by kind."""
    package = Path(nl_nodes.graph.__file__).parent
    nodes = [package / "shapes.py", *sorted((package / "nodes").glob("*.py"))]
    return {"nodes": nodes, "fused": sorted((package / "compiler" / "fused").rglob("*.py"))}


def _node(node: Node, place: Mapping[Node, int]) -> list[Any]:
    attributes = {name: _plain(value) for name, value in sorted(node.attributes.items())}
    shape = None if node.shape is None else [int(n) for n in node.shape]
    constant = _plain(node.value) if isinstance(node, Constant) else None
    kind = [_name(type(node)), "leaf" if isinstance(node, Leaf) else "node"]
    return [kind, attributes, [place[n] for n in node.inputs], shape, constant]


def _plain(value: Any) -> Any:
    """Return a value in JSON's types, the same in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | complex | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_plain(item), sort_keys=True) for item in value)
    if isinstance(value, Mapping):
        return sorted([json.dumps(_plain(key)), _plain(item)] for key, item in value.items())
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        host = np.ascontiguousarray(backend_of([value]).host(value), dtype=np.float64)
        return [list(value.shape), _sha(host.tobytes())]
    if isinstance(value, CodeType):
        return _code(value)
    if (code := getattr(value, "__code__", None)) is not None:
        return _code(code)
    return [_name(type(value)), _plain(getattr(value, "__dict__", None))]


def _lineage(kind: type) -> Iterator[type]:
    return (base for base in kind.__mro__ if issubclass(base, Node))


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in sorted(vars(kind).items()):
        function = getattr(member, "__func__", getattr(member, "fget", None)) or member
        if (code := getattr(function, "__code__", None)) is not None:
            yield name, _code(code)


def _code(code: CodeType) -> Any:
    """Return a function's bytecode, names and constants, without file and line numbers."""
    constants = [_plain(constant) for constant in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _files(module: str) -> list[Path]:
    """Return the Python files of a module's top-level package, or the module's own file if it is in no package."""
    package = sys.modules[module.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    alone = Path(getattr(package, "__file__", None) or "")
    return [file for folder in folders for file in folder.rglob("*.py")] or [alone] * alone.is_file()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _sha(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
