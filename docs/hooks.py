"""Hooks of the documentation site: pages from READMEs, notebooks and docstrings, and links between them.

The pages in docs/ link to files of the repository, as they do where the repository itself is browsed. Here a link to a
README or a module becomes one to its page; a link to any other file of the repository becomes plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["nl-nodes", "nl-layers", "nl-models", "nl-training"]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def pages() -> dict[str, str]:
    """Return the site's page by path in the repository, for READMEs and modules."""
    found = {"README.md": "index.md", "README.ko.md": "ko.md", "CONTRIBUTING.md": "contributing.md"}
    found["CHANGELOG.md"] = "changelog.md"
    found["packages/nl-nodes/src/nl_nodes/compiler/README.md"] = "compiler.md"
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        found[path.relative_to(ROOT).as_posix()] = f"notebooks/{path.stem}.md"
    for name in PACKAGES:
        found[f"packages/{name}/README.md"] = found[f"packages/{name}"] = f"packages/{name}.md"
        source = ROOT / "packages" / name / "src"
        for path in sorted(source.rglob("*.py")):
            module = path.relative_to(source).with_suffix("").as_posix().removesuffix("/__init__")
            found[path.relative_to(ROOT).as_posix()] = f"api/{module.replace('/', '.')}.md"
    return found


PAGES = pages()


def on_config(config: Any) -> Any:
    """Set the navigation: the pages, then the reference by package."""
    listed = {name: [] for name in PACKAGES}
    for path, page in PAGES.items():
        if page.startswith("api/"):
            listed[path.split("/")[1]].append({page[4:-3]: page})
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    config.nav = [
        {
            "Start": [
                "index.md",
                {"한국어": "ko.md"},
                "tutorial.md",
                "data.md",
                "regularization.md",
                "architecture.md",
                "compiler.md",
            ]
        },
        {"Notebooks": [page for page in PAGES.values() if page.startswith("notebooks/")]},
        {"Packages": [f"packages/{name}.md" for name in PACKAGES]},
        {"Results": ["gallery.md", "results.md", "performance.md", "gpu.md", "verification.md", "robustness.md"]},
        {"Project": ["contributing.md", "changelog.md", {"Decisions": [f"decisions/{name}" for name in decisions]}]},
        {"Reference": [{name: listed[name]} for name in PACKAGES]},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the READMEs, and a page a module that mkdocstrings fills."""
    for path, page in PAGES.items():
        if page.startswith("api/"):
            files.append(File.generated(config, page, content=f"::: {page[4:-3]}\n"))
        elif path.endswith(".ipynb"):
            text, outputs = notebook(path)
            files.append(File.generated(config, page, content=text))
            for name, data in outputs.items():
                files.append(File.generated(config, f"notebooks/{name}", content=data))
        elif path.endswith(".md"):
            files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    return files


def notebook(path: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by name."""
    stem = Path(path).stem
    resources = {"output_files_dir": f"{stem}_files", "unique_key": "output"}
    text, resources = MarkdownExporter().from_filename(str(ROOT / path), resources)
    return text, resources["outputs"]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the site's pages."""
    uri = page.file.src_uri
    origin = next((path for path, made in PAGES.items() if made == uri and not path.endswith(".py")), f"docs/{uri}")

    def target(match: re.Match[str]) -> str:
        image, text, link, anchor = match.groups()
        if re.match(r"[a-z]+:", link):
            return match.group()
        path = normpath(join(dirname(origin), link))
        made = PAGES.get(path) or PAGES.get(f"{path}/__init__.py") or path.removeprefix("docs/")
        if path not in PAGES and made == path and not path.startswith("docs/"):
            return text
        if not image and made == path.removeprefix("docs/") and not (ROOT / path).is_file():
            return text
        return f"{image}[{text}]({relpath(made, dirname(uri) or os.curdir)}{anchor or ''})"

    return LINK.sub(target, markdown)
