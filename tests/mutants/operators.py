"""Mutation operators: each takes a syntax node and yields wrong replacements for it.

An operator gets the node, its parent and the function that contains it. Those for axes, keepdims, upstream gradients,
transposes, slices and results are specific to array code; the others are general.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

Operator = Callable[[ast.AST, ast.AST, ast.FunctionDef], Iterator[ast.AST]]
OPERATORS: list[Operator] = []

BINARY: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Add, ast.Div),
    ast.Div: (ast.Mult, ast.Sub),
    ast.FloorDiv: (ast.Mult, ast.Add),
    ast.Mod: (ast.Add,),
    ast.Pow: (ast.Mult, ast.Div),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr, ast.BitXor),
    ast.BitOr: (ast.BitAnd, ast.BitXor),
}
COMPARED: dict[type, tuple[type, ...]] = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq, ast.GtE, ast.LtE),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
RENAMED = {
    "sum": ("mean", "max"),
    "max": ("min", "sum"),
    "min": ("max",),
    "mean": ("sum",),
    "zeros": ("ones",),
    "ones": ("zeros",),
    "zeros_like": ("ones_like",),
    "exp": ("expm1",),
    "log": ("log1p",),
    "log1p": ("log",),
    "tanh": ("sin",),
}
DROPPED = {"reshape", "transpose", "astype", "copy", "sum", "max"}
# Attributes that are not numbers; axes and keepdims have their own operators.
NO_NUMBERS = {"axis", "axes", "keepdims", "target"}
IN_PLACE = {ast.Add: "__iadd__", ast.Mult: "__imul__", ast.Div: "__itruediv__", ast.Pow: "__ipow__"}
# Commutative functions.
COMMUTE = {"add", "multiply", "maximum", "minimum", "max", "min"}
LENT = {"inputs", "ctx.inputs", "inputs[0]", "ctx.inputs[0]"}
FACTS = {"shape", "ndim", "size", "dtype"}


def operator(function: Operator) -> Operator:
    OPERATORS.append(function)
    return function


@operator
def binary_swaps(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp):
        for op in BINARY.get(type(node.op), ()):
            yield ast.BinOp(node.left, op(), node.right)


@operator
def operands_dropped(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.UnaryOp):
        yield node.operand


@operator
def in_place(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Compute the right values, but in place, overwriting an input or upstream gradient."""
    method = IN_PLACE.get(type(node.op)) if isinstance(node, ast.BinOp) else None
    if method and ast.unparse(node.left) in {"dy", "ctx.output", *_lent(function)}:
        yield ast.Call(ast.Attribute(node.left, method, ast.Load()), [node.right], [])


def _lent(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in LENT:
            yield from map(ast.unparse, getattr(node.targets[0], "elts", node.targets))
    yield from LENT


@operator
def operands_exchanged(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow | ast.MatMult):
        yield ast.BinOp(node.right, node.op, node.left)


@operator
def conditions(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in COMPARED.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)


@operator
def branches(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.If):
        for test in (ast.UnaryOp(ast.Not(), node.test), ast.Constant(True), ast.Constant(False)):
            yield ast.If(test, node.body, node.orelse)


@operator
def numbers(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield ast.Constant(node.value + 1)
        # With one input, index -1 is the same as 0.
        if node.value or not isinstance(parent, ast.Subscript):
            yield ast.Constant(node.value - 1)


@operator
def truths(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)


@operator
def settings_off_by_one(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Change a numeric attribute of the node by one, such as pad, stride, threshold or power."""
    called = isinstance(parent, ast.Call) and parent.func is node
    if _setting(node) and not called and node.attr not in NO_NUMBERS:
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))
        yield ast.BinOp(node, ast.Sub(), ast.Constant(1))


def _setting(node: ast.AST) -> bool:
    itself = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return itself and isinstance(node.ctx, ast.Load)


@operator
def settings_exchanged(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Exchange two attributes of the node, such as height and width, or stride and pad."""
    if not _setting(node):
        return
    called = {id(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
    names = {n.attr for n in ast.walk(function) if _setting(n) and id(n) not in called} - NO_NUMBERS
    if node.attr in names:
        yield from (ast.Attribute(node.value, other, ast.Load()) for other in sorted(names - {node.attr}))


@operator
def axes(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.keyword) and node.arg == "axis":
        for value in (None, 0, -1):
            yield ast.keyword("axis", ast.Constant(value))
    elif _setting(node) and node.attr == "axis":
        for value in (None, 0, -1):
            yield ast.Constant(value)


@operator
def keepdims_flipped(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.keyword) and node.arg == "keepdims" and not isinstance(node.value, ast.Constant):
        yield ast.keyword("keepdims", ast.UnaryOp(ast.Not(), node.value))
    elif _setting(node) and node.attr == "keepdims" and not isinstance(parent, ast.keyword):
        yield ast.UnaryOp(ast.Not(), node)


@operator
def keywords_dropped(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call):
        for dropped in node.keywords:
            # Other operators change the first two; `strict` is a guard.
            if dropped.arg not in ("axis", "keepdims", "strict"):
                yield ast.Call(node.func, node.args, [k for k in node.keywords if k is not dropped])


@operator
def functions(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Call another function with the same signature, or drop the call."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return
    for name in RENAMED.get(node.func.attr, ()):
        yield ast.Call(ast.Attribute(node.func.value, name, ast.Load()), node.args, node.keywords)
    if node.func.attr in DROPPED:
        yield node.func.value
    elif ast.unparse(node.func).startswith("ctx.xp.") and len(node.args) == 1 and not node.keywords:
        yield node.args[0]


@operator
def transposes(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "transpose":
        yield ast.Call(node.func, [], [])
        if node.args and isinstance(node.args[0], ast.Tuple):
            for order in _neighbours_swapped(node.args[0].elts):
                yield ast.Call(node.func, [ast.Tuple(order, ast.Load())], [])


@operator
def arguments_exchanged(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call):
        commutes = getattr(node.func, "attr", getattr(node.func, "id", "")) in COMMUTE
        for order in list(_neighbours_swapped(node.args))[1 if commutes else 0 :]:
            yield ast.Call(node.func, order, node.keywords)


@operator
def targets_exchanged(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        for order in _neighbours_swapped(node.targets[0].elts):
            yield ast.Assign([ast.Tuple(order, ast.Store())], node.value, lineno=0)


def _neighbours_swapped(items: list[ast.expr]) -> Iterator[list[ast.expr]]:
    for i in range(len(items) - 1):
        yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


@operator
def siblings(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Use a name unpacked in the same assignment instead, such as b for a, or width for height."""
    if not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
        return
    for found in ast.walk(function):
        if isinstance(found, ast.Assign | ast.For) and isinstance(target := _target(found), ast.Tuple):
            names = [t.id for t in target.elts if isinstance(t, ast.Name) and t.id != "_"]
            if node.id in names:
                yield from (ast.Name(name, ast.Load()) for name in names if name != node.id)


def _target(node: ast.Assign | ast.For) -> ast.expr:
    return node.targets[0] if isinstance(node, ast.Assign) else node.target


@operator
def slices(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Slice):
        return
    for part in ("lower", "upper", "step"):
        bound = getattr(node, part)
        if bound is not None:
            # A slice from 0 equals one without a lower bound.
            none = bound if part == "lower" and ast.unparse(bound) == "0" else None
            for new in (
                none,
                ast.BinOp(bound, ast.Add(), ast.Constant(1)),
                ast.BinOp(bound, ast.Sub(), ast.Constant(1)),
            ):
                yield ast.Slice(**{"lower": node.lower, "upper": node.upper, "step": node.step, part: new})


@operator
def accumulations(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Assign instead of accumulating, or use another operator."""
    if isinstance(node, ast.AugAssign):
        whole = ast.Subscript(node.target, ast.Constant(...), ast.Store())
        yield ast.Assign([whole], node.value, lineno=0)
        for op in BINARY.get(type(node.op), ()):
            yield ast.AugAssign(node.target, op(), node.value)


@operator
def statements_dropped(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    stores = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript | ast.Attribute)
    if stores or isinstance(node, ast.AugAssign | ast.Expr):
        yield ast.Pass()


@operator
def upstream_ignored(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    read = isinstance(node, ast.Name) and node.id == "dy" and isinstance(node.ctx, ast.Load)
    if read and not (isinstance(parent, ast.Attribute) and parent.attr in FACTS):
        yield ast.BinOp(ast.BinOp(node, ast.Mult(), ast.Constant(0)), ast.Add(), ast.Constant(1))


@operator
def results(node: ast.AST, parent: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Change a result of forward or backward: scale it, negate it, drop it, exchange it with another."""
    if not (isinstance(node, ast.Return) and function.name in ("forward", "backward") and node.value is not None):
        return
    given = "dy" if function.name == "backward" else "inputs[0]"
    several = isinstance(node.value, ast.Tuple)
    parts = node.value.elts if several else [node.value]
    for i, part in enumerate(parts):
        for new in _wrong_results(part, given):
            changed = [*parts[:i], new, *parts[i + 1 :]]
            yield ast.Return(ast.Tuple(changed, ast.Load()) if several else changed[0])
    for order in _neighbours_swapped(parts):
        yield ast.Return(ast.Tuple(order, ast.Load()))


def _wrong_results(part: ast.expr, given: str) -> Iterator[ast.expr]:
    if isinstance(part, ast.Constant):
        yield ast.parse(given, mode="eval").body
        return
    for factor in (-1, 0, 2, 1.001):
        yield ast.BinOp(part, ast.Mult(), ast.Constant(factor))
    yield ast.Constant(None)
    yield ast.parse(given, mode="eval").body
