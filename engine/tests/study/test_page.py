"""The page of the report contains everything that it shows, whatever the names of the runs are."""

import base64
from html.parser import HTMLParser

import pytest
from tests.support.made_runs import end, run_directory

from cairn.study import choice, html, plots, reading, words
from cairn.study import page as sweep_page


class Reader(HTMLParser):
    """Collects tags, cells and pictures, and fails on tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.pictures, self.links = [], [], [], []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.links += [facts[name] for name in ("href", "src", "action") if name in facts]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-1:] == ["td"]:
            self.cells.append(data)


@pytest.fixture
def study(tmp_path):
    overrides = ["checkpoint.save_interval=100", "tags=<b>&[x]"]
    run_directory(tmp_path / "<i>&sweep", 100, ends=[end(370, 300, 100, "failed", "<script>")], overrides=overrides)
    run_directory(tmp_path / "<i>&sweep", 400)
    return choice.study(reading.read(tmp_path / "<i>&sweep"))


def write(study, pictures, folder):
    return html.write(sweep_page.page(study, pictures), folder)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_the_page_contains_its_pictures_and_needs_no_network(study, tmp_path):
    pictures = plots.pictures(study)
    page = read(write(study, pictures, tmp_path / "out"))
    prefix = "data:image/png;base64,"
    assert [link[: len(prefix)] for link in page.links] == [prefix] * 3
    assert all(base64.b64decode(link.removeprefix(prefix)).startswith(b"\x89PNG") for link in page.links)


def test_the_page_has_the_cells_and_sentences_of_the_terminal(study, tmp_path):
    page = read(write(study, [], tmp_path))
    for row in [*words.rows(study), *words.end_rows(study)]:
        assert all(cell in page.cells for cell in row)
    for sentence in [*words.conclusion(study), *words.notes(study), *words.METHOD, *words.SOURCES]:
        assert sentence in page.text


def test_names_are_not_markup(study, tmp_path):
    text = write(study, [], tmp_path).read_text()
    assert "<script>" not in text
    assert "failed (&lt;script&gt;)" in text
    assert "&lt;i&gt;&amp;sweep" in text
    assert "tags=&lt;b&gt;&amp;[x]" in text


def test_without_interruptions_there_is_no_section_for_them(tmp_path):
    run_directory(tmp_path / "sweep", 100)
    calm = choice.study(reading.read(tmp_path / "sweep"))
    page = read(write(calm, [], tmp_path))
    assert "Interruptions" not in page.text
    assert "24 h" in page.cells, "the typical times between failures"
