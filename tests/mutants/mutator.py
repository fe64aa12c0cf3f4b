"""Creates the mutants of a target, and installs them temporarily."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType

from mutants.operators import OPERATORS
from mutants.targets import Target, is_guard, owner_of, resolve, syntax

Site = tuple[ast.AST, str, int | None, ast.AST]


@dataclass(frozen=True)
class Mutant:
    """A target with one wrong change.

    Attributes:
        target: the target's name.
        mutation: `operator: before -> after`, with a number if the same change is possible in several places.
        source: the source of the changed function or declaration.
    """

    target: str
    mutation: str
    source: str


def mutants(target: Target) -> list[Mutant]:
    """Return every mutant of a target; their sources differ from each other and from the original."""
    function = target.function
    if function is None:
        return list(_declarations(target))
    tree = syntax(function)
    found: dict[str, Mutant] = {}
    labels: Counter[str] = Counter()
    seen = {ast.unparse(tree)}
    for holder, field, place, node in list(_sites(tree, tree)):
        for operator in OPERATORS:
            for new in list(operator(node, holder, tree)):
                label = f"{operator.__name__}: {_text(node)} -> {_text(new)}"
                _put(holder, field, place, new)
                source = ast.unparse(tree)
                _put(holder, field, place, node)
                if source not in seen and _fits(function, source):
                    seen.add(source)
                    labels[label] += 1
                    number = f" #{labels[label]}" if labels[label] > 1 else ""
                    found[source] = Mutant(target.name, label + number, source)
    return list(found.values())


def unchanged(target: Target) -> Mutant:
    """Return the original target as a `Mutant`, for control runs."""
    function = target.function
    source = repr(resolve(target.name)) if function is None else ast.unparse(syntax(function))
    return Mutant(target.name, "unchanged", source)


def _declarations(target: Target) -> Iterator[Mutant]:
    """Yield mutants of a class attribute: a True becomes False, a tuple loses one item."""
    value = resolve(target.name)
    if value is True:
        yield Mutant(target.name, "declaration: True -> False", "False")
    else:
        for part in value:
            rest = tuple(other for other in value if other != part)
            yield Mutant(target.name, f"declaration: {value} -> {rest}", repr(rest))


def _sites(holder: ast.AST, function: ast.FunctionDef) -> Iterator[Site]:
    """Yield every syntax node of the body with its parent and field, except guards and annotations."""
    for field, value in ast.iter_fields(holder):
        if field == "annotation" or (holder is function and field != "body"):
            continue
        for place, node in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(node, ast.AST) and not is_guard(node):
                yield holder, field, place if isinstance(value, list) else None, node
                yield from _sites(node, function)


def _put(holder: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[place] = node


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


def _fits(function: FunctionType, source: str) -> bool:
    """Return whether the source compiles to code with the original's number of free variables."""
    try:
        return len(compiled(function, source).co_freevars) == len(function.__code__.co_freevars)
    except SyntaxError:
        return False


def compiled(function: FunctionType, source: str) -> CodeType:
    """Return the code object of a changed function, compiled in a class if it is a method, so that `super()` works."""
    method = function.__qualname__ != function.__name__
    text = f"class _:\n{_indented(source)}" if method else source
    code = compile(text, f"<mutant of {function.__qualname__}>", "exec", annotations.compiler_flag)
    for _ in range(1 + method):
        code = next(part for part in code.co_consts if isinstance(part, CodeType))
    return code


def _indented(source: str) -> str:
    return "".join(f" {line}\n" for line in source.splitlines())


@contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """Replace the original's code by the mutant's within the block; all references to the function see it."""
    original = resolve(mutant.target)
    if isinstance(original, FunctionType):
        code = original.__code__
        original.__code__ = compiled(original, mutant.source)
        try:
            yield
        finally:
            original.__code__ = code
    else:
        owner, attribute = owner_of(mutant.target)
        setattr(owner, attribute, ast.literal_eval(mutant.source))
        try:
            yield
        finally:
            setattr(owner, attribute, original)
