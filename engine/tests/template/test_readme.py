"""The commands in the README are valid: overrides compose and make targets exist. No command is run."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).resolve().parents[3]
MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FLAGS_WITH_A_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i"}
OPERATORS = re.compile(r"[();<>|&]+")


def commands(markdown):
    """Yield the simple commands in the ```bash blocks, each as a list of words."""
    for block in re.findall(r"^```bash\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _split(line.removeprefix("$ "))


def _split(line):
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, "#"
    command = []
    for word in [*words, ";"]:
        if OPERATORS.fullmatch(word):
            if command:
                yield command
            command = []
        else:
            command.append(word)


def overrides_of(command):
    """Return the overrides of a `python train.py ...`, or None for another command."""
    words = [word for word in command if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if len(words) < 2 or not re.search(r"(^|/)python3?$", words[0]) or words[1] != "train.py":
        return None
    rest, overrides = iter(words[2:]), []
    for word in rest:
        if word in FLAGS_WITH_A_VALUE:
            next(rest)
        elif not word.startswith("-"):
            overrides.append(word)
    return overrides


def make_call(command):
    """Return (targets, ARGS) of a `make ...`, or None for another command."""
    if command[0] != "make":
        return None
    variables = dict(word.split("=", 1) for word in command[1:] if "=" in word)
    return [w for w in command[1:] if "=" not in w and not w.startswith("-")], variables.get("ARGS", "")


def first_of_each_sweep(overrides):
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            yield f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        else:
            yield override.input_line


def composes(overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", list(first_of_each_sweep(overrides)), return_hydra_config=True)


COMMANDS = list(commands((ROOT / "README.md").read_text()))
TRAINS = [overrides for command in COMMANDS if (overrides := overrides_of(command)) is not None]
MAKES = [call for command in COMMANDS if (call := make_call(command)) is not None]


def test_the_readme_shows_how_to_train_and_to_test():
    assert TRAINS
    assert {"train", "test"} <= {target for targets, _ in MAKES for target in targets}


@pytest.mark.parametrize("overrides", TRAINS, ids=" ".join)
def test_training_commands_compose(overrides):
    composes(overrides)


@pytest.mark.parametrize(("targets", "arguments"), MAKES, ids=str)
def test_make_commands_exist(targets, arguments):
    assert set(targets) <= MAKE_TARGETS
    if "train" in targets:
        composes(shlex.split(arguments))


def test_each_make_target_is_described_in_the_help():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    described = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(phony) == MAKE_TARGETS == described


def test_the_commands_of_a_shell_block_are_found():
    shell = "A=1 python train.py -m a.b=1,2 \\\n  c=d & # later\nkill -9 $!; make test-fast ARGS='x=1'"
    text = f"```bash\n{shell}\n```\n"
    found = list(commands(text))
    assert [overrides_of(c) for c in found] == [["a.b=1,2", "c=d"], None, None]
    assert list(first_of_each_sweep(["a.b=1,2", "c=d"])) == ["a.b=1", "c=d"]
    assert make_call(found[-1]) == (["test-fast"], "x=1")
