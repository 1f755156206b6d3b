"""YAML from other people: plain values, few enough, or one sentence."""

import contextlib
from itertools import pairwise

import pytest
import yaml

from cairn import bounded_yaml

LOADERS = [yaml.SafeLoader, bounded_yaml.Loader]


def bomb(width, depth):
    lines = ["a: &a [1, 2, 3]"]
    for before, name in pairwise("abcdefghijklmnop"[:depth]):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * width)}]")
    return "\n".join(lines)


def merge_bomb(depth):
    lines = ["a: &a {x: 1, y: 2}"]
    for before, name in pairwise("abcdefghijklmnop"[:depth]):
        lines.append(f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize("loader", LOADERS, ids=["python", "default"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (bomb(9, 12), "more than 1048576 values, most of them by aliases"),
        ("a: &a [*a]", "it contains itself"),
        ("[" * 2000, "nesting|RecursionError"),
        ("[" * 150 + "]" * 150, "nested more than 100 levels deep|RecursionError"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: 1\nb: 2\na: 3", r"a key appears twice \(line 3\)"),
        ("a: 2001-99-99", "month must be in"),
        ("a: [", "line 1|line 2"),
        ("a: \0", "unacceptable character"),
        (f"a: {'9' * 5000}", "4300 digits"),
        ("{[1]: 2}", "unhashable"),
    ],
)
def test_a_hostile_document_is_one_sentence(text, why, loader):
    with pytest.raises(ValueError, match=why) as caught:
        bounded_yaml.parse(text, loader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS, ids=["python", "default"])
def test_merge_keys_of_merge_keys_are_merged_once_or_refused(loader):
    found = {}
    with contextlib.suppress(ValueError):  # an earlier PyYAML copies each of them
        found = bounded_yaml.parse(merge_bomb(12), loader)
    assert set(map(str, found.values())) <= {"{'x': 1, 'y': 2}"}


def test_an_error_does_not_quote_the_file():
    with pytest.raises(ValueError, match="line") as caught:
        bounded_yaml.parse("secret: [token\nnext: {")
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS, ids=["python", "default"])
def test_aliases_and_merge_keys_of_ordinary_files_are_read(loader):
    text = "base: &base {lr: 0.1, size: 3}\none: {<<: *base, lr: 0.2}\ntwo: {<<: [*base], <<: *base}\nthree: *base\n"
    found = bounded_yaml.parse(text, loader)
    assert found["one"] == {"lr": 0.2, "size": 3}
    assert found["two"] == found["three"] == {"lr": 0.1, "size": 3}
