"""The retired names and phrases of retired.toml are nowhere in the code, its prose or the pages."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENTRIES: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("retired.toml").read_text())["entry"]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".css", ".html", ".js"}
EXEMPT = {"CHANGELOG.md", "tests/unit/docs/test_retired.py"}
KINDS = {"class", "function", "variable", "attribute", "import", "module", "prose"}
Word = tuple[str, str, int]
"""A kind, a name of this kind, and its line."""


def files(root: Path) -> Iterator[Path]:
    for top in ("packages", "conf", "scripts", "tests", "docs"):
        yield from (root / top).rglob("*")
    yield from root.glob("*")


def words(path: str, source: str) -> Iterator[Word]:
    """Yield the folder and file names of a path, and every name that its Python source defines, imports or reads."""
    yield from (("module", part, 1) for part in Path(path).with_suffix("").parts)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef():
                yield "class", node.name, node.lineno
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield "function", node.name, node.lineno
            case ast.arg():
                yield "variable", node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield "variable", node.id, node.lineno
            case ast.Attribute():
                yield "attribute", node.attr, node.lineno
            case ast.Import() | ast.ImportFrom():
                dotted = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for alias in node.names:
                    if isinstance(node, ast.ImportFrom):
                        yield "import", alias.name, node.lineno
                    else:
                        dotted.append(alias.name)
                for name in dotted:
                    if name.startswith(("nl_", "support.", "mutants.")):
                        yield from (("module", part, node.lineno) for part in name.split("."))


def prose(source: str) -> str:
    """Return the comments and strings of Python source, at their lines."""
    lines: list[list[str]] = [[] for _ in range(source.count("\n") + 2)]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for number, line in enumerate(token.string.split("\n"), token.start[0]):
                lines[number].append(line.strip(" #\"'"))
    return "\n".join(" ".join(line) for line in lines[1:])


def findings(path: str, source: str, entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield `path:line: kind name: use ...` for every retired name and phrase in a file."""
    entries = [entry for entry in entries if path.startswith(tuple(entry.get("under", [""])))]
    found: dict[Word, str] = {}
    if path.endswith(".py"):
        text = prose(source)
        use = {
            (kind, name): entry["use"] for entry in entries for name in entry.get("names", ()) for kind in entry["in"]
        }
        found = {word: use[word[:2]] for word in words(path, source) if word[:2] in use}
    else:
        text = source
    for entry in entries:
        if "prose" in entry.get("in", ["prose"]):
            pattern = entry["phrase"].replace(" ", r"\s+") if "phrase" in entry else "|".join(entry["names"])
            for match in re.finditer(rf"\b(?:{pattern})\b", text):
                found["prose", match[0], text.count("\n", 0, match.start()) + 1] = entry["use"]
    for (kind, name, line), replacement in sorted(found.items(), key=lambda item: item[0][2]):
        yield f"{path}:{line}: {kind} {name!r}: use {replacement}"


def test_no_retired_name_or_phrase_is_used() -> None:
    left = [
        finding
        for path in sorted(files(ROOT))
        if path.suffix in SUFFIXES and (name := path.relative_to(ROOT).as_posix()) not in EXEMPT
        for finding in findings(name, path.read_text(), ENTRIES)
    ]
    assert not left, "\n".join([f"{len(left)} findings", *left])


def test_every_entry_says_what_to_look_for_and_what_to_use() -> None:
    for entry in ENTRIES:
        assert entry["use"], entry
        assert ("phrase" in entry) != ("names" in entry), entry
        assert KINDS.issuperset(entry.get("in", ())), entry
        assert ("names" in entry) == bool(entry.get("in")), entry
        for under in entry.get("under", ()):
            assert list(ROOT.glob(f"{under}*")), under


SAMPLE = '''
from nl_nodes.old import old as new
import nl_nodes.old.other

class old:  # old
    """An old
    one."""
    def old(self, old):
        old = self.old
        return f"{old} is old"
'''


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("class", [5]),
        ("function", [8]),
        ("variable", [8, 9]),
        ("attribute", [9]),
        ("import", [2]),
        ("module", [2, 3]),
        ("prose", [5, 6, 10]),
    ],
)
def test_each_kind_of_name_is_found_where_it_stands(kind: str, lines: list[int]) -> None:
    entry = {"use": "new", "names": ["old"], "in": [kind]}
    assert [int(line.split(":")[1]) for line in findings("a.py", SAMPLE, [entry])] == lines


def test_a_phrase_is_found_across_lines_and_only_under_its_paths() -> None:
    entry = {"use": "new", "phrase": "old one", "under": ["packages/"]}
    assert list(findings("packages/a.py", SAMPLE, [entry])) == ["packages/a.py:6: prose 'old\\none': use new"]
    assert list(findings("packages/a.md", "the old\none", [entry])) == ["packages/a.md:1: prose 'old\\none': use new"]
    assert not list(findings("tests/a.py", SAMPLE, [entry]))
    assert not list(findings("packages/a.py", SAMPLE.replace("old", "older"), [entry]))


def test_the_name_of_a_file_is_a_module() -> None:
    entry = {"use": "new", "names": ["old"], "in": ["module"]}
    assert list(findings("tests/old.py", "", [entry])) == ["tests/old.py:1: module 'old': use new"]
