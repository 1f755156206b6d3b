"""What README, CONTRIBUTING and engine/docs show is valid: commands, configurations, Python, links.

No command is run, except the script for an existing project at the head of the README: it is killed twice.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from tests.support.equality import differences, outcome
from tests.support.package import base_environment, build_wheel
from tests.support.paths import ENGINE, ROOT

import cairn
from cairn.cli import main as cli

MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FLAGS_WITH_A_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i"}
OPERATORS = re.compile(r"[();<>|&]+")
README = ROOT / "README.md"
IS_OURS = README.is_file() and README.read_text().startswith("# Cairn\n")
"""False in a project whose owner has written another README: its files differ from those that the pages name."""
OURS = [README, ROOT / "CONTRIBUTING.md", ENGINE / "README.md", *sorted((ENGINE / "docs").glob("*.md"))]
PAGES = [page for page in OURS if IS_OURS and page.is_file()]
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}


def blocks(language):
    """Yield (page, text) of each code block in a language."""
    for page, text in TEXT.items():
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield page, block


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
    """Return the overrides of a `python train.py ...` or of its batch script, or None for another command."""
    words = [word for word in command if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if "scripts/train.sbatch" in words:
        words = ["python", "train.py", *words[words.index("scripts/train.sbatch") + 1 :]]
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


def library_call(command):
    """Return the arguments of a `cairn ...`, or None for another command."""
    if command[0] == "cairn":
        return command[1:]
    return command[3:] if command[1:3] == ["-m", "cairn"] else None


def first_of_each_sweep(overrides):
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_interval_sweep():
            yield f"{override.get_key_element()}={override.value().start}"
        elif override.is_sweep_override():
            yield f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        else:
            yield override.input_line


def found(kind):
    """Return [(page, what `kind` makes of a command)] for the commands that it recognizes."""
    calls = [(page, kind(command)) for page, text in TEXT.items() for command in commands(text)]
    return [(page, call) for page, call in calls if call is not None]


def named_blocks(language):
    """Return [(path, text)] of the files in the blocks; a comment with a path begins each of them."""
    found = []
    for _, block in blocks(language):
        parts = re.split(r"^# ([\w./-]+/[\w-]+\.\w+)\b", block, flags=re.MULTILINE)
        header = parts[0] if parts[0].startswith("# @package") else ""
        found += [(path, f"{header}#{text}") for path, text in zip(parts[1::2], parts[2::2], strict=True)]
    return found


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The folder configs/ with the files that the pages show."""
    folder = shutil.copytree(ROOT / "configs", tmp_path_factory.mktemp("shown") / "configs")
    for path, block in named_blocks("yaml"):
        (folder.parent / path).write_text(block)
    return folder


def composed(configs, overrides):
    with initialize_config_dir(str(configs), version_base="1.3"):
        return compose("train", list(first_of_each_sweep(overrides)), return_hydra_config=True)


TRAINS, MAKES, LIBRARY_CALLS = found(overrides_of), found(make_call), found(library_call)


@pytest.mark.skipif(not IS_OURS, reason="this project has a README of its own")
def test_the_readme_shows_how_to_train_and_to_test():
    assert "README.md" in {page for page, _ in TRAINS}
    assert {"train", "test"} <= {target for page, (targets, _) in MAKES if page == "README.md" for target in targets}


@pytest.mark.parametrize(("page", "overrides"), TRAINS, ids=lambda value: value if isinstance(value, str) else "-")
def test_training_commands_compose(configs, page, overrides):
    composed(configs, overrides)


@pytest.mark.parametrize(("page", "call"), MAKES, ids=str)
def test_make_commands_exist(configs, page, call):
    targets, arguments = call
    assert set(targets) <= MAKE_TARGETS
    if "train" in targets:
        composed(configs, shlex.split(arguments))


@pytest.mark.parametrize(("page", "arguments"), LIBRARY_CALLS, ids=str)
def test_commands_of_the_library_are_accepted(page, arguments):
    if arguments in (["--help"], ["--version"]):
        return
    cli._parser().parse_args(arguments)


@pytest.mark.parametrize(("path", "block"), named_blocks("yaml"), ids=lambda value: value if "\n" not in value else "-")
def test_configurations_compose_and_policies_can_be_built(configs, path, block):
    _, group, option = Path(path).with_suffix("").parts
    config = composed(configs, [f"{group}={option}"])
    if "@package _global_" in block:
        return  # it sets keys of other groups
    node = config[group]
    if group == "checkpoint":
        instantiate(node.triggers)
        instantiate(node.keep)


@pytest.mark.parametrize(("page", "block"), list(blocks("python")))
def test_python_compiles_and_its_imports_resolve(page, block):
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("my_project"):
            for alias in node.names:
                assert hasattr(import_module(node.module), alias.name), f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cairn":
            if node.attr in ("testing", "policy"):
                import_module(f"cairn.{node.attr}")
            else:
                assert node.attr in cairn.__all__, f"cairn.{node.attr}"


@pytest.mark.parametrize("page", TEXT)
def test_links_to_files_exist(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT[page])
    missing = [
        target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", TEXT)
def test_files_of_the_library_that_are_named_exist(page):
    for path in re.findall(r"`(?:engine/)?src/cairn/([\w/]+\.\w+)`", TEXT[page]):
        assert (ENGINE / "src" / "cairn" / path).is_file(), path


def test_each_make_target_is_described_in_the_help():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    described = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(phony) == MAKE_TARGETS == described


def test_the_commands_of_a_shell_block_are_found():
    shell = "A=1 python train.py -m a.b=1,2 \\\n  c=d & # later\nkill -9 $!; make test-fast ARGS='x=1'"
    text = f"```bash\n{shell}\n```\n"
    listed = list(commands(text))
    assert [overrides_of(c) for c in listed] == [["a.b=1,2", "c=d"], None, None]
    assert list(first_of_each_sweep(["a.b=1,2", "c=d"])) == ["a.b=1", "c=d"]
    assert make_call(listed[-1]) == (["test-fast"], "x=1")
    assert overrides_of(["sbatch", "--gpus=1", "scripts/train.sbatch", "a=b"]) == ["a=b"]
    assert library_call(["python", "-m", "cairn", "ls", "latest"]) == library_call(["cairn", "ls", "latest"])


# The script for an existing project

PRELUDE = """
import os, signal, torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import TensorDataset

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    def training_step(self, batch, batch_idx):
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        loss = self.net(batch[0]).square().mean()
        self.log("train/loss", loss, on_epoch=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch[0]).square().mean())
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)

points = torch.arange(240.0).view(80, 3).sin()
train_set, val_set = TensorDataset(points[:64]), TensorDataset(points[64:])
"""
SHORT = {'every="10min"': "every=3"}
"""What makes the script of the README save within a test."""


def script_for_an_existing_project():
    (script,) = [block for page, block in blocks("python") if page == "README.md" and "Checkpointer(" in block]
    return script


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python in an environment with the library and its base dependencies: neither Hydra nor W&B."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    return base_environment(tmp_path_factory.mktemp("installed") / "env", wheel) / "bin" / "python"


def run_script(python, folder, *kills):
    """Run the script until it ends; `kills` are the batches at which it kills itself, one per start."""
    folder.mkdir()
    script = script_for_an_existing_project()
    for old, new in SHORT.items():
        assert old in script, f"the script of the README has no {old}"
        script = script.replace(old, new)
    (folder / "script.py").write_text(PRELUDE + script)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for kill in [*kills, -1]:
        env = {**variables, "OMP_NUM_THREADS": "1", "KILL_AT": str(kill)}
        done = subprocess.run([str(python), "script.py"], cwd=folder, env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == (kill < 0), done.stdout + done.stderr
    return outcome(folder / "runs" / "a", [])


@pytest.mark.slow
@pytest.mark.skipif(not IS_OURS, reason="this project has a README of its own")
def test_the_script_for_an_existing_project_is_exact_after_two_kills(python, tmp_path):
    # With workers and with two processes: tests/end_to_end/test_library.py.
    whole = run_script(python, tmp_path / "whole")
    killed = run_script(python, tmp_path / "killed", 5, 11)
    assert not differences(whole, killed)
    assert any(value.abs().sum() > 0 for value in killed.final["state_dict"].values() if torch.is_tensor(value))
