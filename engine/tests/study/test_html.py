"""The parts of a page are escaped, and empty where there is nothing to show."""

from cairn.study import html
from cairn.study.picture import Picture, new_figure


def test_nothing_to_show_leaves_nothing():
    assert html.section("Title", "", html.table(["a"], []), html.paragraphs([]), html.listed([])) == ""
    assert html.figures([Picture("one", "caption", new_figure(1, 1))], "other") == []


def test_texts_are_not_markup():
    odd = "<b>&"
    parts = [
        html.section(odd, html.paragraphs([odd]), html.listed([odd]), html.table([odd], [[odd]])),
        html.meanings({odd: odd}),
        *html.figures([Picture("one", odd, new_figure(1, 1))], "one"),
        html.document(odd, odd, []),
    ]
    assert "<b>" not in "".join(parts)
    assert [part.count("&lt;b&gt;&amp;") for part in parts] == [5, 2, 2, 3]


def test_a_page_is_written_into_a_new_directory(tmp_path):
    path = html.write(html.document("Title", "where", [html.section("One", html.listed(["ä"])), ""]), tmp_path / "a")
    assert path == tmp_path / "a" / "index.html"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<li>ä</li>" in text
