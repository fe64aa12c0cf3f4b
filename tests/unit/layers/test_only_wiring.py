"""Layers only wire nodes: no array library, no backward and no maths on arrays in the modules that define them."""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

import nl_layers
import nl_nodes
from nl_layers.module import Module

# Allowed imports of a layer's module, besides nodes and errors.
PLAIN = {"__future__", "collections.abc", "functools", "math", "typing"}
DECLARATIONS = {"nl_nodes.arguments", "nl_nodes.cases", "nl_nodes.typing"}
DECLARATIONS |= {"nl_layers.module", "nl_layers.labels"}
# Layers that the cases of others contain.
DECLARATIONS |= {f"nl_layers.{name}" for name in ("activations", "affine", "convolution", "normalization")}
# Functions that return no array, and arguments that contain none.
NUMBERS = {"int", "len", "max", "min", "prod", "range", "sorted", "tuple", "isinstance", "super"}
HARMLESS = {"self", "cls", "mode", "draw"}
# Built-in functions that may take arrays or nodes; any other would compute with them.
PASSING = {"enumerate", "isinstance", "len", "super", "tuple", "zip"}
HIDING = {"__import__", "compile", "eval", "exec", "getattr", "globals", "setattr", "vars"}
OWN_METHODS = {"__init__", "wire", "cases"}
RUNS = {"forward": "self._forward", "backward": "self._backward"}


def modules() -> list[Path]:
    """Return the modules that define a layer or loss."""
    names = {c.__module__ for c in Module.registry.values() if c.__module__.startswith("nl_layers.")}
    return sorted(Path(nl_layers.__file__).with_name(f"{name.rsplit('.', 1)[1]}.py") for name in names)


def more_than_wiring(source: str) -> list[str]:
    """Return everything in a layer's module that is more than wiring, each as "line: text"."""
    tree = ast.parse(source)
    found = [fault for node in ast.walk(tree) for fault in imported(node)]
    for part in tree.body:
        found += bound(part)
        if isinstance(part, ast.ClassDef):
            methods = [m for m in part.body if isinstance(m, ast.FunctionDef)]
            found += [fault for statement in part.body for fault in bound(statement)]
            fields = set[str]().union(*(Arrays(m).fields() for m in methods))
            arrays = set[str]().union(*(Arrays(m).array_fields() for m in methods))
            found += [fault for m in methods for fault in (*defined(m, part.name), *Arrays(m, fields, arrays).faults())]
        elif isinstance(part, ast.FunctionDef):
            found += Arrays(part).faults()
    return [f"{line}: {what}" for line, what in sorted(set(found))]


def imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield imports of anything except nodes, errors, declarations and plain helpers."""
    if isinstance(node, ast.Import):
        yield from ((node.lineno, f"imports {name.name}") for name in node.names if name.name not in PLAIN)
    elif isinstance(node, ast.ImportFrom) and node.module == "nl_nodes":
        for name in node.names:
            thing = getattr(nl_nodes, name.name)
            node_or_error = isinstance(thing, type) and issubclass(thing, nl_nodes.Node | nl_nodes.UserError)
            if name.name != "nodes" and not node_or_error:
                yield node.lineno, f"imports {name.name}"
    elif isinstance(node, ast.ImportFrom) and node.module not in PLAIN | DECLARATIONS:
        yield node.lineno, f"imports {node.module}"


def bound(statement: ast.stmt) -> Iterator[tuple[int, str]]:
    """Yield statements of a module or class that are neither definitions, imports nor plain values."""
    if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign):
        names = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", ast.Name(""))]
        plain = statement.value is None or not any(
            isinstance(part, ast.Call | ast.Lambda | ast.Name) for part in ast.walk(statement.value)
        )
        if plain and all(isinstance(name, ast.Name) for name in names):
            return
    elif isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.Import | ast.ImportFrom):
        return
    yield statement.lineno, f"binds {ast.unparse(statement).splitlines()[0]}"


def defined(method: ast.FunctionDef, owner: str) -> Iterator[tuple[int, str]]:
    """Yield methods that are not a layer's, except in the losses' base class one call that runs the graph."""
    if owner == "Loss" and method.name in RUNS:
        last = method.body[-1]
        runs = isinstance(last, ast.Return) and isinstance(last.value, ast.Call) and len(method.body) <= 2
        if not (runs and ast.unparse(last.value.func) == RUNS[method.name]):
            yield method.lineno, f"{method.name} does more than run the graph"
    elif method.name in {"_forward", "_backward"} or not (method.name in OWN_METHODS or method.name.startswith("_")):
        yield method.lineno, f"defines {method.name}"


class Arrays:
    """Tracks which expressions of a function are arrays or nodes, and finds computations on them.

    Operators on nodes wire nodes; those on arrays compute.
    """

    def __init__(
        self, function: ast.FunctionDef, fields: set[str] = frozenset(), arrays: set[str] = frozenset()
    ) -> None:
        self.function = function
        self.known, self.arrays = set(fields), set(arrays)
        for part in ast.walk(function):
            if isinstance(part, ast.FunctionDef | ast.Lambda):
                self.known |= set(self.given(part.args))
                self.arrays |= {arg for arg, kind in self.annotated(part.args) if "Node" not in kind} & self.known
        # A name stays marked once it may be an array, so that names bound on several paths are marked.
        for part in ast.walk(function):
            for target, value in bindings(part):
                if self.holds(value):
                    self.known |= {
                        ast.unparse(t)
                        for t in ast.walk(target)
                        if isinstance(t, ast.Name | ast.Attribute) and ast.unparse(t) not in HARMLESS
                    }
                if self.is_array(value):
                    self.arrays |= {ast.unparse(t) for t in ast.walk(target)} - HARMLESS

    def given(self, args: ast.arguments) -> Iterator[str]:
        """Yield the arguments that are arrays or nodes by their annotation, or have no annotation."""
        for arg, kind in self.annotated(args):
            if arg not in HARMLESS and any(word in kind for word in ("Array", "Node", "Any")):
                yield arg

    def annotated(self, args: ast.arguments) -> Iterator[tuple[str, str]]:
        """Yield each argument with its annotation, "Array" where there is none."""
        for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))):
            yield arg.arg, ast.unparse(arg.annotation) if arg.annotation else "Array"

    def fields(self) -> set[str]:
        """Return the attributes of self that are arrays or nodes."""
        return {name for name in self.known if name.startswith("self.")}

    def array_fields(self) -> set[str]:
        """Return the attributes of self that are arrays."""
        return {name for name in self.arrays if name.startswith("self.")}

    def is_array(self, part: ast.AST | None) -> bool:
        """Return whether an expression may be an array; calls give nodes, unless they are methods of arrays."""
        if isinstance(part, ast.Name):
            return part.id in self.arrays
        if isinstance(part, ast.Attribute):
            inner = part.attr in {"value", "grads", "params"} or self.is_array(part.value)
            return part.attr != "shape" and (inner or ast.unparse(part) in self.arrays)
        if isinstance(part, ast.Call):
            return isinstance(part.func, ast.Attribute) and self.is_array(part.func)
        if isinstance(part, ast.IfExp):
            return self.is_array(part.body) or self.is_array(part.orelse)
        return isinstance(part, ast.expr) and any(self.is_array(p) for p in ast.iter_child_nodes(part))

    def holds(self, part: ast.AST | None) -> bool:
        """Return whether an expression may be an array or a node."""
        if isinstance(part, ast.Name):
            return part.id in self.known
        if isinstance(part, ast.Attribute):
            inner = part.attr in {"value", "grads", "params"} or self.holds(part.value)
            return part.attr != "shape" and (inner or ast.unparse(part) in self.known)
        if isinstance(part, ast.Call):
            return not (isinstance(part.func, ast.Name) and part.func.id in NUMBERS)
        if isinstance(part, ast.Subscript):
            return self.holds(part.value)
        return isinstance(part, ast.expr) and any(self.holds(p) for p in ast.iter_child_nodes(part))

    def computes(self, call: ast.Call) -> bool:
        """Return whether a call is of a built-in function that computes on arrays, or of an unknown function."""
        name = call.func.id
        on_arrays = any(self.holds(part) for part in call.args)
        return name in HIDING or (name in vars(builtins) and name not in PASSING and on_arrays)

    def faults(self) -> Iterator[tuple[int, str]]:
        """Yield operators and methods on arrays, and array functions."""
        for node in ast.walk(self.function):
            if isinstance(node, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot | ast.In) for op in node.ops):
                continue
            if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare):
                computes = self.holds if isinstance(node, ast.Compare) else self.is_array
                if any(computes(p) for p in ast.iter_child_nodes(node)):
                    yield node.lineno, f"computes {ast.unparse(node)}"
            elif isinstance(node, ast.AugAssign) and self.holds(node.target):
                yield node.lineno, f"changes {ast.unparse(node.target)} in place"
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) and self.holds(node.value):
                yield node.lineno, f"changes {ast.unparse(node)} in place"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self.computes(node):
                yield node.lineno, f"calls {node.func.id}"
            elif isinstance(node, ast.Attribute) and node.attr == "xp":
                yield node.lineno, "uses array functions"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and self.holds(node.func.value):
                yield node.lineno, f"calls {ast.unparse(node.func)}"


def bindings(part: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Yield each target that a statement or comprehension binds, with its value or iterable."""
    if isinstance(part, ast.Assign):
        yield from ((target, part.value) for target in part.targets if not isinstance(target, ast.Subscript))
    elif isinstance(part, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
        yield part.target, part.value
    elif isinstance(part, ast.For | ast.comprehension):
        yield part.target, part.iter


def test_every_layer_is_defined_in_a_checked_module() -> None:
    expected = ["activations", "affine", "containers", "convolution", "dropout", "losses", "normalization", "pooling"]
    assert set(expected) <= {path.stem for path in modules()}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_layer_modules_only_wire_nodes(path: Path) -> None:
    assert more_than_wiring(path.read_text()) == []


LAYER = "class A(Layer):\n    def __init__(self, w: Array, rate: float):\n        self.w = Parameter(w)\n"
WIRE = f"{LAYER}    def wire(self, *inputs: Node, mode: Mode) -> Node:\n        x = inputs[0]\n        "
BAD = {
    "imports numpy": "import numpy as np",
    "imports nl_nodes.device": "from nl_nodes.device import backend",
    "imports backend_of": "from nl_nodes import Add, backend_of",
    "defines backward": f"{LAYER}    def backward(self, dy):\n        return dy",
    "defines _backward": f"{LAYER}    def _backward(self, dy):\n        return dy",
    "backward does more": "class Loss(Wired):\n    def backward(self, dy):\n        return self._backward(dy).copy()",
    "computes self.w.value * 2": f"{WIRE}return Constant(self.w.value * 2)",
    "computes x.value + 1": f"{WIRE}return Constant(x.value + 1)",
    "computes -self.w.value": f"{WIRE}return Exp(Constant(-self.w.value))",
    "computes x @ self.v": f"{LAYER}        self.v = w\n    def wire(self, x: Node):\n        return x @ self.v",
    "computes y > 0": f"{WIRE}y = Exp(x)\n        return y > 0",
    "computes z / 2": f"{WIRE}y = self.w.value\n        z = y[0]\n        return z / 2",
    "changes self.w.value in place": f"{WIRE}self.w.value += 1",
    "uses array functions": f"{WIRE}return self.backend.xp",
    "calls x.sum": f"{WIRE}return x.sum()",
    "computes a * b": "def helper(a, b: Node):\n    return a * b",
    "computes b * 2": f"{WIRE}for b in self.params.values():\n            return Exp(b * 2)",
    "computes c * 2": f"{WIRE}return [c * 2 for c in self.params.values()][0]",
    "computes d * 2": f"{WIRE}return (lambda d: d * 2)(x)",
    "computes e * 2": f"{WIRE}def double(e):\n            return e * 2\n        return double(x)",
    "changes x[0] in place": f"{WIRE}x[0] = 0\n        return x",
    "calls abs": f"{WIRE}return abs(x)",
    "calls sum": f"{WIRE}return sum(inputs)",
    "calls max": f"{WIRE}return max(x, 0)",
    "calls getattr": f"{WIRE}return getattr(x, 'sum')()",
    "binds backward": "class A(Layer):\n    backward = lambda self, dy: dy * 2",
    "binds _backward": "class A(Layer):\n    _backward = staticmethod(helper)",
    "binds A.backward": "A.backward = helper",
    "binds if True": "class A(Layer):\n    if True:\n        def backward(self, dy):\n            return dy",
    "binds async": "class A(Layer):\n    async def backward(self, dy):\n        return dy",
}


@pytest.mark.parametrize("fault", BAD)
def test_array_maths_in_a_layer_is_found(fault: str) -> None:
    assert any(fault in found for found in more_than_wiring(BAD[fault])), more_than_wiring(BAD[fault])


def test_computing_numbers_and_shapes_is_allowed() -> None:
    body = """n = self.w.value.shape[0]
        if x.shape is None or len(x.shape) != 4 or x.shape[1] != n + 1:
            raise ShapeError(f"{n}, got {x.shape}")
        return Add(x, MulConst(x, 1 / (1 - self.rate)))"""
    assert more_than_wiring(f"from nl_nodes import Add, MulConst, ShapeError\n{WIRE}{body}") == []


def test_operators_on_nodes_are_allowed() -> None:
    body = """y = Exp(x) @ self.w - x / 2
        for z in inputs:
            y = y * z
        return (1 - y) ** 2 + -self.w"""
    assert more_than_wiring(f"from nl_nodes import Exp\n{WIRE}{body}") == []
