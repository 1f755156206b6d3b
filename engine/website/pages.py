"""What the site needs in addition to engine/docs: pages of the repository that docs link to, and the API reference.

The pages are written for GitHub, where a link to `../benchmarks/RESULTS.md` or to `../../configs/train.yaml` works.
Each linked file becomes a page below `repository/`: Markdown as it is, source with highlighting.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from posixpath import relpath
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import STX
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ENGINE = Path(__file__).resolve().parents[1]
ROOT = ENGINE.parent
DOCS = ENGINE / "docs"
PACKAGE = ENGINE / "src" / "cairn"

IMAGES = {".png", ".svg", ".jpg", ".gif"}
LINK = re.compile(r"\]\(([^)\s#]+)")
ITEM = re.compile(r"[-*] |\d+\. ")
CODE = STX
"""First character of the line that stands for fenced code, which has been set apart."""

HEADINGS = {"policy.when": "When to save", "policy.keep": "What to keep", "errors": "Errors"}
"""Heading of the public names of a module; those of the other modules come first."""
MODULES = re.findall(r"`cairn\.(\w+)\.__all__`", (ENGINE / "CHANGELOG.md").read_text())
"""Modules with public names of their own: the page that promises how long they stay lists them."""


def linked_file(page: Path, link: str) -> Path | None:
    """Return the file of this repository that a link leads to, or None.

    Args:
        page: The file that has the link.
        link: A path relative to it, without a fragment. A folder stands for its README.md, as on GitHub.
    """
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    target = Path(os.path.normpath(page.parent / unquote(link)))
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def site_path(file: Path) -> str:
    """Return the path of a file's page below the root of the site, as `nav` names it."""
    path = file.relative_to(DOCS) if file.is_relative_to(DOCS) else Path("repository") / file.relative_to(ROOT)
    is_source = path.suffix != ".md" and path.suffix not in IMAGES
    return path.as_posix() + (".md" if is_source else "")


def linked_files(pages: Iterable[Path]) -> set[Path]:
    """Return all files that these pages link to, directly or through other pages."""
    found: set[Path] = set()
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        targets = {linked_file(page, link) for link in LINK.findall(page.read_text())} - {None} - found
        found |= targets
        waiting += [target for target in targets if target.suffix == ".md"]
    return found


def source_page(file: Path) -> str:
    """Return a page that shows a file of source code."""
    text = file.read_text()
    fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
    language = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}.get(file.suffix, "text")
    return f"# {file.name}\n`{file.relative_to(ROOT).as_posix()}`\n\n{fence}{language}\n{text}\n{fence}\n"


def assigned(tree: ast.Module, name: str) -> Any:
    """Return the constant that a module assigns to a name."""
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == [name]
    ]
    return ast.literal_eval(value)


def api_page() -> str:
    """Return the API reference: a directive of mkdocstrings for each public name."""
    modules = assigned(ast.parse((PACKAGE / "__init__.py").read_text()), "_MODULES")
    sections: dict[str, list[str]] = {title: [] for title in ("Training", *HEADINGS.values())}
    for name, module in modules.items():
        sections[HEADINGS.get(module, "Training")].append(f"cairn.{name}")
    for module in MODULES:
        path = PACKAGE / module / "__init__.py"
        path = path if path.is_file() else PACKAGE / f"{module}.py"
        names = assigned(ast.parse(path.read_text()), "__all__")
        sections[f"`cairn.{module}`"] = [f"cairn.{module}.{name}" for name in names]
    text = "# API reference\nThe public names. All other modules are private and may change in any release.\n"
    for title, names in sections.items():
        text += f"\n## {title}\n" + "".join(f"\n::: {name}\n" for name in names)
    return text


def in_nav(nav: Any) -> Iterator[str]:
    """Yield the paths in a `nav`."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from in_nav(part)


def present(nav: Any) -> Any:
    """Return a `nav` without the files around the library that are missing: a project may have deleted them."""
    if isinstance(nav, list):
        return [part for part in map(present, nav) if part]
    if isinstance(nav, dict):
        return {title: part for title, value in nav.items() if (part := present(value))}
    is_missing = nav.startswith("repository/") and not (ROOT / nav.removeprefix("repository/")).exists()
    return None if is_missing else nav


def title(page: Path) -> str:
    """Return the heading of a page, or its name."""
    heading = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)
    return heading[1] if heading else page.name


class BlocksWithoutEmptyLines(Preprocessor):
    """Separates lists, tables and code from the lines around them, as Python-Markdown needs it and GitHub does not."""

    def run(self, lines: list[str]) -> list[str]:
        separated: list[str] = []
        is_in_list, previous = False, ""
        for line in lines:
            begins_list = ITEM.match(line) and not is_in_list
            begins_table = line.startswith("|") and not previous.startswith("|")
            if previous.strip() and (begins_list or begins_table or CODE in (line[:1], previous[:1])):
                separated.append("")
            if ITEM.match(line):
                is_in_list = True
            elif line.strip() and not line[0].isspace() and not (is_in_list and previous.strip()):
                is_in_list = False
            separated.append(line)
            previous = line
        return separated


class RepositoryLinks(Treeprocessor):
    """Lets links to files of the repository lead to their pages on the site."""

    def __init__(self, markdown: Markdown, extension: GitHubMarkdown) -> None:
        super().__init__(markdown)
        self.extension = extension

    def run(self, root: Element) -> None:
        page = self.extension.page
        if page is None:
            return
        folder = os.path.dirname(site_path(page)) or "."
        for element, key in [(e, "href") for e in root.iter("a")] + [(e, "src") for e in root.iter("img")]:
            link, mark, anchor = element.get(key, "").partition("#")
            if link and (target := linked_file(page, link)):
                element.set(key, relpath(site_path(target), folder) + mark + anchor)
                if target.suffix == ".md" and element.text == target.name:
                    element.text = title(target)  # a reader of the site does not see files


class GitHubMarkdown(Extension):
    """Renders what is written for GitHub.

    Attributes:
        page: The file that is rendered; None: a generated page.
    """

    page: Path | None = None

    def extendMarkdown(self, md: Markdown) -> None:
        # After fenced code has been set apart (25), and before mkdocs resolves links (0).
        md.preprocessors.register(BlocksWithoutEmptyLines(md), "blocks_without_empty_lines", 20)
        md.treeprocessors.register(RepositoryLinks(md, self), "repository_links", 5)


github = GitHubMarkdown()
origins: dict[str, Path] = {}
"""The file behind each page."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = present(config.nav)
    config.markdown_extensions.append(github)  # type: ignore[arg-type]
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")  # anchors as on GitHub
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    nav = set(in_nav(config.nav))
    docs = sorted(DOCS.rglob("*.md"))
    if missing := [name for name in map(site_path, docs) if name not in nav]:
        raise PluginError(
            f"`nav` in engine/website/mkdocs.yml lacks {', '.join(missing)}. Add each page where a reader needs it."
        )
    for file in list(files):
        if (DOCS / file.src_uri).is_file() and Path(file.src_uri).suffix not in {".md", *IMAGES}:
            files.remove(file)  # source code: the page of a linked file shows it
    origins.clear()
    origins.update({site_path(page): page for page in docs})
    in_repository = [ROOT / name.removeprefix("repository/") for name in nav if name.startswith("repository/")]
    for path in sorted({*in_repository, *linked_files([*docs, *in_repository])} - set(docs)):
        name = site_path(path)
        if files.get_file_from_path(name):
            continue  # an image in engine/docs
        make = partial(File.generated, config, name)
        if path.suffix == ".md" or path.suffix in IMAGES:
            file = make(abs_src_path=str(path))
            origins[name] = path
        else:
            file = make(content=source_page(path))
        if name not in nav:
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    files.append(File.generated(config, "api.md", content=api_page()))
    files.append(File.generated(config, "assets/site.css", abs_src_path=str(ENGINE / "website" / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    github.page = origins.get(page.file.src_uri)
    return markdown
