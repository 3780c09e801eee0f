"""What MkDocs needs to make a site of documents that are written for the repository.

README, CONTRIBUTING and CHANGELOG become pages; the references of commands, configuration and Python are
made from the program; links to other files of the repository lead to copies of them in the site, and
links to folders become plain text, so that nothing leads out of it.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Documents outside docs/ by their path in the repository, and the pages that they become."""
WORKER = "iframe-worker.js"
"""Lets the search work from files; the theme would load it from a server."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:data|class|func|meth|mod|attr):(<code>)")
_REMOTE = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\ssrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*\srel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*\shref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*\shref=["']?(?:https?:)?//[^>]*\srel=["']?(?:stylesheet|preload|preconnect|icon)"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^\s"')]+"""
)
"""What a browser would fetch from another host: links that a reader may follow are no such thing."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/, and the files that pages link to."""
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # MkDocs forgets paths set while it loads this
    import reference

    made = {page: (ROOT / path).read_text() for path, page in PAGES.items()}
    made |= {
        "commands.md": reference.commands(),
        "configuration.md": reference.configuration(),
        "python.md": reference.python(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for page, text in pages:
        for _, _, target, _ in _LINK.findall(text):
            path = _in_repository(page, target)
            if path is None or not (ROOT / path).is_file() or files.get_file_from_path(_in_site(path)):
                continue
            files.append(File.generated(config, _in_site(path), content=(ROOT / path).read_bytes()))
    for name in ("site.css", WORKER):
        files.append(File.generated(config, name, content=Path(__file__).with_name(name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links of the repository into links of the site."""

    def turned(link: re.Match[str]) -> str:
        image, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = _in_repository(page.file.src_uri, target)
        if path is None:
            return link[0]
        if (ROOT / path).is_dir():
            return f"{text} (`{path}/`)"
        place = posixpath.relpath(_in_site(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({place}{anchor})"

    return _LINK.sub(turned, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Take the names of Sphinx's roles out of docstrings."""
    return _ROLE.sub(r"\1", html)


def on_post_build(config: MkDocsConfig) -> None:
    """Load the worker of the search from the site; fail if a page would still fetch from another host."""
    site = Path(config.site_dir)
    for path in sorted(site.rglob("*.html")):
        own = os.path.relpath(site / WORKER, path.parent)
        path.write_text(path.read_text().replace("https://unpkg.com/iframe-worker/shim", own))
    for path in (*site.rglob("*.html"), *site.rglob("*.css")):
        if found := _REMOTE.search(path.read_text()):
            raise PluginError(f"{path.name} would fetch from another host: {found[0][:120]}")


def _in_repository(page: str, target: str) -> str | None:
    """Return the path in the repository that a link means; None for addresses and links within a page."""
    if not target or re.match(r"[a-z]+:", target):
        return None
    home = {place: path for path, place in PAGES.items()}.get(page, f"docs/{page}")
    return os.path.normpath(posixpath.join(posixpath.dirname(home), target))


def _in_site(path: str) -> str:
    """Return the path in the site of a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
