"""The files of a text, and the file into which they are joined."""

import os

import pytest
from tests.support.project import example

Corpus = example("data.corpus").Corpus


@pytest.fixture
def folder(tmp_path):
    for name, text in {"b.txt": "bbb", "a.txt": "aa", "deep/c.txt": "c"}.items():
        (tmp_path / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "text" / name).write_text(text)
    return tmp_path / "text"


def test_sorted_files_are_joined(folder, tmp_path):
    corpus = Corpus.find(f"{folder}/**/*.txt")
    assert corpus.num_bytes == 6
    assert corpus.cache_in(tmp_path / "cache").read_bytes() == b"aabbbc"
    assert len(list((tmp_path / "cache").iterdir())) == 1, "no temporary file is left"


def test_the_joined_file_is_used_again_and_repaired(folder, tmp_path):
    corpus = Corpus.find(f"{folder}/*.txt")
    cached = corpus.cache_in(tmp_path / "cache")
    first = cached.stat().st_mtime_ns
    assert corpus.cache_in(tmp_path / "cache").stat().st_mtime_ns == first
    cached.write_bytes(b"")  # as after a power cut
    assert corpus.cache_in(tmp_path / "cache").read_bytes() == b"aabbb"


def test_a_changed_source_file_makes_another_joined_file(folder):
    before = Corpus.find(f"{folder}/*.txt")
    names = {before.cache_name}
    os.utime(folder / "a.txt", (1, 1))
    touched = Corpus.find(f"{folder}/*.txt")
    assert touched.fingerprint == before.fingerprint
    names.add(touched.cache_name)
    (folder / "a.txt").write_text("aaa")
    grown = Corpus.find(f"{folder}/*.txt")
    assert grown.fingerprint != before.fingerprint
    assert len(names | {grown.cache_name}) == 3


def test_the_fingerprint_is_the_same_in_another_folder(folder, tmp_path):
    before = Corpus.find(f"{folder}/**/*.txt").fingerprint
    folder.rename(tmp_path / "moved")
    assert Corpus.find(f"{tmp_path}/moved/**/*.txt").fingerprint == before


def test_a_file_that_changes_while_it_is_read_is_refused(folder, tmp_path):
    corpus = Corpus.find(f"{folder}/*.txt")
    assert corpus.num_bytes == 5
    (folder / "a.txt").write_text("longer")
    with pytest.raises(RuntimeError, match="changed"):
        corpus.cache_in(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.files="):
        Corpus.find(f"{tmp_path}/*.nothing")


def test_the_standard_library_is_the_default():
    corpus = Corpus.find(None)
    names = [file.name for file in corpus.files]
    assert {"argparse.py", "decoder.py"} <= set(names)
    assert not any("site-packages" in file.parts or "test" in file.parts for file in corpus.files)
    assert corpus.num_bytes > 2_000_000
