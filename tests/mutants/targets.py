"""The mutation targets: forward, backward and their helpers in the same class or module, and `unbroadcast`."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType, ModuleType

from support.node_cases import NODES

from nl_nodes import Node
from nl_nodes.compiler import Rule
from nl_nodes.shapes import unbroadcast

ROOTS = ("forward", "backward")
DECLARED = ("broadcasts", "constant", "saves")
# Functions that only choose among correct alternatives, for speed; all their mutants are equivalent.
CHOICES = {
    f"nl_nodes.compiler.fused.{name}"
    for name in (
        "workspace:cache_chunk",
        "workspace:flat_chunk",
        "workspace:even_chunk",
        "affine:_writes_pixels",
        "batch_norm:_chunk_rows",
        "epilogue:has_one_pixel",
        "conv.im2col:Im2col._chunk_rows",
        "conv.im2col:Im2col._pixel_bytes",
        "conv.mec:Mec._pixel_bytes",
        "conv.node:uses_mec",
        "conv.winograd:Winograd._chunk_sizes",
        "conv.winograd:Winograd._first_rows",
        "conv.winograd:Winograd._wait_for_workspace",
        "conv.filter_parallel:prefers_filter_parallel",
        "conv.filter_parallel:FilterParallelWinograd._chunk_sizes",
        "conv.filter_parallel:FilterParallelWinograd._chunk_size",
    )
}


@dataclass
class Target:
    """A function or class attribute to mutate, and the nodes whose cases test it.

    Attributes:
        name: `module:qualified name`.
        users: names of the nodes that use it.
        roles: "forward", "backward" or both, from where the nodes use it.
    """

    name: str
    users: list[str] = field(default_factory=list)
    roles: set[str] = field(default_factory=set)

    @property
    def fused(self) -> bool:
        """Whether it is a part of the compiler."""
        return self.name.startswith("nl_nodes.compiler.")

    @property
    def function(self) -> FunctionType | None:
        """The function; None for a class attribute."""
        found = resolve(self.name)
        return found if isinstance(found, FunctionType) else None


def targets(fused: bool = False) -> dict[str, Target]:
    """Return every target by name, with its users, of the compiler's fused nodes or of all others."""
    found: dict[str, Target] = {}

    def use(name: str, node: str, role: str) -> None:
        target = found.setdefault(name, Target(name))
        target.roles.add(role)
        if node not in target.users:
            target.users.append(node)

    for node, cls in NODES.items():
        if bool(_fused(cls)) != fused:
            continue
        for role in ROOTS[: 1 if cls.constant else 2]:
            for function in closure(cls, role):
                name = f"{function.__module__}:{function.__qualname__}"
                if name not in CHOICES:
                    use(name, node, role)
        for attribute in DECLARED:
            owner = next(c for c in cls.__mro__ if attribute in vars(c))
            if getattr(cls, attribute) and owner is not Node:
                use(f"{owner.__module__}:{owner.__qualname__}.{attribute}", node, "backward")
    return found


def closure(cls: type, role: str) -> list[FunctionType]:
    """Return the role's function and all functions of its class and module that it uses, directly or indirectly."""
    waiting, found = [_method(cls, role)], []
    if role == "backward" and cls.broadcasts:
        waiting.append(unbroadcast)
    while waiting:
        function = waiting.pop()
        if function is not None and function not in found:
            found.append(function)
            waiting += _named(cls, function)
    return found


def _named(cls: type, function: FunctionType) -> Iterator[FunctionType | None]:
    for node in parts(syntax(function)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield _method(cls, node.attr)
        elif isinstance(node, ast.Name):
            other = function.__globals__.get(node.id)
            if isinstance(other, FunctionType) and other.__module__ in (function.__module__, *_fused(other)):
                yield other
            elif isinstance(other, type) and not issubclass(other, Node) and _fused(other):
                # A helper class of the fused nodes: all its methods.
                names = [
                    n for base in other.__mro__ if _fused(base) for n in vars(base) if n == "__init__" or n[:2] != "__"
                ]
                yield from (_method(other, name) for name in names)


def _fused(thing: type | FunctionType) -> tuple[str, ...]:
    """Return the module as a tuple of one if it belongs to the fused nodes, else ()."""
    return (thing.__module__,) if thing.__module__.startswith("nl_nodes.compiler.fused.") else ()


def _method(cls: type, name: str) -> FunctionType | None:
    found = inspect.getattr_static(cls, name, None)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    written = isinstance(found, FunctionType) and not found.__code__.co_filename.startswith("<")
    return found if written else None


def parts(holder: ast.AST) -> Iterator[ast.AST]:
    """Yield all descendants of a syntax node, except guards."""
    for node in ast.iter_child_nodes(holder):
        if not is_guard(node):
            yield node
            yield from parts(node)


def is_guard(node: ast.AST) -> bool:
    """Return whether a node only refuses: an `if` that raises, or zip's `strict`; other tests cover these."""
    raises = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse
    return raises or (isinstance(node, ast.keyword) and node.arg == "strict")


@cache
def syntax(function: FunctionType) -> ast.FunctionDef:
    """Return the function's syntax tree, without docstring and decorators."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    if ast.get_docstring(tree) is not None:
        tree.body = tree.body[1:]
    tree.decorator_list = []
    return tree


def resolve(name: str) -> object:
    """Return the function or class attribute with this `module:qualified name`."""
    owner, attribute = owner_of(name)
    found = inspect.getattr_static(owner, attribute)
    if isinstance(found, property):
        return found.fget
    if isinstance(found, Rule):
        return found.replacement
    found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    return inspect.unwrap(found) if callable(found) else found


def owner_of(name: str) -> tuple[type | ModuleType, str]:
    """Return the class or module that contains the target, and the target's name in it."""
    module, path = name.split(":")
    *classes, attribute = path.split(".")
    owner: type | ModuleType = sys.modules[module]
    for step in classes:
        owner = getattr(owner, step)
    return owner, attribute
