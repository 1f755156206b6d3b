"""Pictures become files, and their texts are shown as they are."""

import matplotlib.image
import pytest

from cairn.study.picture import Picture, new_figure, plain, short, write


def drawn_text(text):
    figure = new_figure(2, 1)
    shown = figure.text(0, 0, plain(text))
    figure.canvas.draw()
    return shown.get_text()


def test_a_picture_is_written_into_a_new_directory(tmp_path):
    figure = new_figure(2, 1)
    figure.subplots().plot([1, 2])
    (path,) = write([Picture("name", "caption", figure)], tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "name.png"
    assert matplotlib.image.imread(path).std() > 0.01


@pytest.mark.parametrize("text", ["val/loss", "$\\odd{$", "$", "$a$ $b_$", "100 %"])
def test_no_text_is_read_as_a_formula(text):
    assert drawn_text(text).replace("\\$", "$") == text


@pytest.mark.parametrize(
    ("label", "expected"),
    [("a" * 30, "a" * 30), ("a" * 20 + "b" * 20, "a" * 14 + "…" + "b" * 15), ("$x$", "\\$x\\$")],
)
def test_a_long_label_loses_its_middle(label, expected):
    assert short(label) == expected
