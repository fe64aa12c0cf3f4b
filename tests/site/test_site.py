"""The documentation site names everything public, and all that its pages link to is there."""

import ast
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "outputs" / "site"


def public_names() -> Iterator[str]:
    for source in sorted(ROOT.glob("packages/*/src")):
        for path in sorted(source.rglob("*.py")):
            module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            yield module
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    yield f"{module}.{node.name}"


def inventory() -> set[str]:
    data = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(data).decode().splitlines()}


def test_every_public_name_is_in_the_reference() -> None:
    names = list(public_names())
    assert len(names) > 500
    assert not sorted(set(names) - inventory())


def test_every_link_between_pages_has_a_target() -> None:
    broken = set()
    for page in SITE.rglob("*.html"):
        if page.name == "404.html":
            continue
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:|//", link) and not (page.parent / unquote(link)).exists():
                broken.add(f"{page.relative_to(SITE)}: {link}")
    assert not sorted(broken)
