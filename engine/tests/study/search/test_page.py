"""The page of a search has the cells and sentences of the terminal, whatever its texts are."""

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import page, reading, rows, words


@pytest.fixture
def read(tmp_path):
    return lambda found: reading.read(search_directory(tmp_path, found, curves=False))


def test_all_tables_and_sentences_are_on_the_page(read):
    study = read(made())
    text = page.page(study, [])
    for found in (rows.rungs, rows.trials, rows.stops):
        for row in found(study)[1]:
            assert all(f"<td>{cell}</td>" in text for cell in row)
    for sentence in [*words.conclusion(study), *words.notes(study)]:
        assert sentence.replace("'", "&#x27;") in text


def test_texts_of_the_search_are_not_markup(read):
    found = made()
    found |= {"metric": "<script>", "sampler": "<b>", "rungs": ["<i>", "3ep", "9ep"]}
    found["trials"][0] |= {"state": "failed", "error": "<script>", "directory": "<script>"}
    found["parameters"] = {"<u>": {"kind": "choice", "choices": ["<s>", "<t>"]}}
    for number, trial in enumerate(found["trials"]):
        trial["parameters"] = {"<u>": ["<s>", "<t>"][number % 2]}
    text = page.page(read(found), [])
    assert not any(tag in text for tag in ("<script>", "<b>", "<i>", "<u>", "<s>", "<t>"))
