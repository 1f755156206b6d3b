"""Texts are plain technical English: no file has a phrase that `words.py` lists."""

import json

import pytest
from tests.guards import words


def test_no_file_has_a_banned_phrase():
    found = words.search(words.files())
    assert not found, "Rewrite these texts:\n" + "\n".join(words.lines(found))


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("the run is told of it, and tells the log", ["told", "tells"]),
        ("Nobody, somebody or whoever reads this", ["Nobody", "somebody", "whoever"]),
        ("X is no duration", ["is no"]),
        ("there is no file; it is no longer there, and no more", []),
        ("these are no files", ["are no"]),
        ("all but\nfor so\n  many", ["but for", "so many"]),
        ("beside it, anew, lest it shall be had", ["beside", "anew", "lest", "shall", "be had"]),
        ("besides, the shallow threshold is untold", []),
        ("one of these, at hand for so long", ["of these", "at hand", "so long"]),
    ],
)
def test_a_phrase_is_found(text, phrases):
    assert [place.phrase for place in words.findings("a.md", text)] == phrases


@pytest.mark.parametrize(
    ("source", "phrases"),
    [
        ('"""It is told."""', ["told"]),
        ("# so\n# many\nx = 1", ["so many"]),
        ("x = 1  # so\ny = 2\n\n# many", []),
        ('raise ValueError(f"{x} is no " "number")', ["is no"]),
        ('raise ValueError("it is " f"no {x}")', ["is no"]),
        ('log.info("beside")', []),
        ('log.info("a file beside %s", x)', ["beside"]),
        ("def test_nobody_waits(): ...", ["nobody"]),
        ("def nobody(): ...", []),
        ("nobody = tells.told", []),
    ],
)
def test_python_text_is_comments_strings_and_names_of_tests(source, phrases):
    assert [place.phrase for place in words.findings("a.py", source)] == phrases


def test_comments_of_yaml_and_cells_of_notebooks_are_text():
    assert len(words.findings("a.yaml", "a: 1 # told\n# so\n# many\n")) == 2
    cells = [{"cell_type": "markdown", "source": ["so ", "many"]}, {"cell_type": "code", "source": ["%x # told"]}]
    assert [place.line for place in words.findings("a.ipynb", json.dumps({"cells": cells}))] == [1, 2]


def test_the_line_is_where_the_text_begins():
    assert [place.line for place in words.findings("a.md", "one\n\ntwo\nthree\n\nis told\n")] == [6]
    assert [place.line for place in words.findings("a.py", "x = 1\n# fine\n# told\n")] == [2]


def test_a_renamed_project_is_its_owners(tmp_path):
    for folder in ("src/mine", "engine/src/cairn"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").touch()
    assert words.files(tmp_path, tmp_path / "engine") == [tmp_path / "engine/src/cairn/a.py"]
