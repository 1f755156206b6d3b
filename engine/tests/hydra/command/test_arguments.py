"""Flags and overrides of a command line, and file names in Hydra's grammar."""

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cairn.hydra.command import arguments
from cairn.hydra.command.arguments import Arguments, existing, literal, quoted, unliteral

NAMES = [
    *("plain", "a b", "it's", "a'", "'a'", '"a"', "a\\", "a\\'", "${x}", "a${b.c}d", "\\${x}\\", "$(x)", "k=v,w"),
    *("#a", "ünï", "-dash", "latest", "null", "[a]", "{a:1}", "a;b", "%s", "~", "${", "a\nb"),
]


def read(override):
    """Return the value that the configuration has in the end."""
    item = OverridesParser.create().parse_override(override)
    return OmegaConf.create({"value": item.value()}).value


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_as_it_was_typed(name):
    assert read(f"a={quoted(literal(name))}") == name
    assert unliteral(literal(name)) == name


@given(st.text(st.sampled_from("ab'\"\\${}~ ,="), min_size=1, max_size=12))
def test_any_text_is_read_as_it_was_typed(text):
    assert read(f"a={quoted(literal(text))}") == text
    assert unliteral(literal(text)) == text


@pytest.mark.parametrize(
    ("argv", "flags", "overrides"),
    [
        ([], [], []),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job"], ["a=1", "b=2"]),
        (["a=1", "--cfg=job", "~b"], ["--cfg=job"], ["a=1", "~b"]),
        (["-c", "job", "a=1", "-p", "model"], ["-c", "job", "-p", "model"], ["a=1"]),
        (["a=1", "-cd", "/x", "-cn", "other", "-cp", "conf"], ["-cd", "/x", "-cn", "other", "-cp", "conf"], ["a=1"]),
        (["a=1", "--config-d", "/x", "b=2"], ["--config-d", "/x"], ["a=1", "b=2"]),
        (["a=1", "-m", "b=2"], ["-m"], ["a=1", "b=2"]),
        (["--info", "a=1"], ["--info=all"], ["a=1"]),
        (["a=1", "-i", "defaults", "b=2"], ["--info=defaults"], ["a=1", "b=2"]),
        (["a=1", "--", "-b"], [], ["a=1", "-b"]),
        (["--resolve", "--hydra-help", "a=-1"], ["--resolve", "--hydra-help"], ["a=-1"]),
    ],
)
def test_flags_may_stand_anywhere(argv, flags, overrides):
    found = Arguments.split(argv)
    assert (list(found.flags), list(found.overrides)) == (flags, overrides)


def test_the_flags_with_a_value_are_those_of_hydra():
    actions = [action for action in get_args_parser()._actions if action.option_strings and action.nargs is None]
    for action in actions:
        for name in action.option_strings:
            assert Arguments.split([name, "value", "a=1"]).overrides == ("a=1",), name


@pytest.mark.parametrize(
    "argv", [["--config-name", "b"], ["--config-name=b"], ["-cn", "b"], ["-cn=b"], ["--config-n=b"]]
)
def test_the_value_of_a_flag(argv):
    assert Arguments.split(["x=1", *argv, "y=1"]).value("--config-name") == "b"
    assert Arguments.split(argv).value("--config-dir") is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "~"])
def test_a_directory_is_found_as_it_was_typed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert existing(name) == existing(f"./{name}") == existing(f"{name}/")
    assert existing(name).samefile(tmp_path / name)


def test_quotes_and_a_tilde_of_a_shell_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b").mkdir()
    for typed in (f"'{tmp_path}/a b'", f'"{tmp_path}/a b"', "~/a b", "'~/a b'"):
        assert existing(typed) == tmp_path / "a b"
    assert str(existing("~nobody_of_this_name/a")) == "~nobody_of_this_name/a"


def test_two_dots_follow_links_as_the_system_does(tmp_path, monkeypatch):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "run").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path)
    assert existing("near/../run") == tmp_path / "far" / "run"


@pytest.mark.parametrize("name", ["${paths.log_dir}", "'a", "a\\"])
def test_a_file_that_exists_is_taken_literally(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert read(arguments.file(f"ckpt_path={name}")) == name


def test_an_interpolation_stays_one_without_such_a_file():
    assert arguments.file("ckpt_path=${paths.log_dir}/a b") == "ckpt_path='${paths.log_dir}/a b'"
