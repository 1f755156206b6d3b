"""The documentation site: each page is in its navigation, and what is written for GitHub is rendered as there.

`make check` builds it with warnings as errors, which covers links and anchors.
"""

import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml
from tests.support import kit
from tests.support.paths import ENGINE, ROOT

DOCS = ENGINE / "docs"
WEBSITE = ENGINE / "website"


def _leaves(nav):
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in _leaves(part)]


@pytest.fixture(scope="module")
def pages():
    kit.require_packages("mkdocs", "markdown", "pymdownx")
    spec = spec_from_file_location("website_pages", WEBSITE / "pages.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_page_is_once_in_the_navigation_of_the_site():
    nav = _leaves(yaml.safe_load((WEBSITE / "mkdocs.yml").read_text())["nav"])
    missing = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - set(nav)
    assert not missing, f"add {sorted(missing)} to `nav` in engine/website/mkdocs.yml, where a reader needs them"
    assert len(nav) == len(set(nav))


def test_each_page_is_in_the_table_of_the_first_page():
    text = (DOCS / "README.md").read_text()
    assert [path.name for path in DOCS.glob("*.md") if f"({path.name})" not in text and path.name != "README.md"] == []


def test_a_link_leads_to_the_page_of_a_file(pages):
    def site_path(link):
        target = pages.linked_file(DOCS / "library.md", link)
        return target and pages.site_path(target)

    assert site_path("checkpoints.md") == "checkpoints.md"
    assert site_path("goodput.png") == "goodput.png"
    assert site_path("../benchmarks/RESULTS.md") == "repository/engine/benchmarks/RESULTS.md"
    assert site_path("../../configs/train.yaml") == "repository/configs/train.yaml.md"
    assert site_path("../..") == "repository/README.md"
    assert [site_path(link) for link in ("https://a.b/c.md", "/etc/passwd", "none.md", "../../../../etc/passwd")] == [
        None
    ] * 4


def test_pages_are_rendered_as_on_github(pages):
    import markdown

    extension = pages.GitHubMarkdown()
    extension.page = DOCS / "library.md"
    text = "Two:\n- [RESULTS.md](../benchmarks/RESULTS.md#x)\n  and more\n- b\n\nEnd.\n```\n- code\n- stays\n```\n"
    text += "| h |\n| - |\n| x |\n"
    html = markdown.markdown(text, extensions=["pymdownx.superfences", "tables", extension])
    assert html.count("<li>") == 2
    assert "<p>Two:</p>" in html
    assert '<a href="repository/engine/benchmarks/RESULTS.md#x">What a save costs</a>' in html
    assert "- code\n- stays" in html
    assert "<p>End.</p>" in html
    assert "<td>x</td>" in html


def test_files_that_a_project_has_deleted_leave_the_navigation(pages):
    nav = [{"Start": ["README.md", {"Gone": "repository/none.md"}]}, {"Empty": ["repository/none.md"]}]
    assert pages.present(nav) == [{"Start": ["README.md"]}]


def test_warnings_of_the_build_are_errors():
    # With --quiet, --strict sees no warning.
    (command,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m mkdocs" in line]
    assert "--strict" in command
    assert "--quiet" not in command


def test_a_source_file_is_shown_whole(pages):
    file = DOCS / "library.md"  # it has fences of its own
    page = pages.source_page(file)
    assert file.read_text() in page
    fence = re.search(r"^(`+)text$", page, re.MULTILINE)[1]
    assert fence not in file.read_text()


def test_the_reference_has_all_public_names(pages):
    import cairn

    listed = {line.removeprefix("::: ") for line in pages.api_page().splitlines() if line.startswith("::: ")}
    assert {f"cairn.{name}" for name in cairn.__all__ if name != "__version__"} <= listed
    assert {"cairn.testing.assert_exact", "cairn.remote.Mirror", "cairn.dcp.Reader", "cairn.hydra.main"} <= listed


def test_a_page_that_the_navigation_lacks_is_named(pages):
    from types import SimpleNamespace

    with pytest.raises(pages.PluginError, match=r"lacks .*library\.md.*Add each page"):
        pages.on_files([], SimpleNamespace(nav=["README.md"]))
