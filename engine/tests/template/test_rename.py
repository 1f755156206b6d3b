"""`make rename`: every reference to the package changes, the key in the checkpoints does not."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _load_script():
    spec = spec_from_file_location("rename_script", ROOT / "scripts" / "rename.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load_script()
OLD = script.find_package(ROOT)
NEW = f"{OLD}_renamed"  # this test runs in the renamed project too


@pytest.fixture
def clone(tmp_path):
    """What a clone of this tree would hold, in a git repository of its own, all committed."""
    root = tmp_path / "clone"
    for source in script.source_files(ROOT):
        target = root / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        _run(["git", *command], root)
    return root


def _run(command, cwd, check=True, **environment):
    who = {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment = {**os.environ, **who, **quiet, **environment}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result


def _rename(root, *arguments):
    return _run([sys.executable, "scripts/rename.py", *arguments], root, check=False)


def _import_path(root):
    """A PYTHONPATH on which the old name raises: an installed copy must not hide a forgotten reference."""
    trap = root.parent / "trap"
    trap.mkdir(exist_ok=True)
    (trap / f"{OLD}.py").write_text("raise ImportError('the old name of the package')")
    return os.pathsep.join([str(trap), str(root / "src")])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import pkg", "import new"),
        ("import pkg as p, os", "import new as p, os"),
        ("from pkg import run", "from new import run"),
        ("from pkg.data.sampler import S", "from new.data.sampler import S"),
        ("_target_: pkg.data.digits.Digits", "_target_: new.data.digits.Digits"),
        ("monkeypatch.setattr('pkg.data.x', 1)", "monkeypatch.setattr('new.data.x', 1)"),
        ("pkg.__version__", "new.__version__"),
        ("verbose: [pkg.run, pkg.data]", "verbose: [new.run, new.data]"),
        ('module = "pkg.*"', 'module = "new.*"'),
        ("python -m pkg ls RUN", "python -m new ls RUN"),
        ('[sys.executable, "-m", "pkg", "ls"]', '[sys.executable, "-m", "new", "ls"]'),
        ('ROOT / "src" / "pkg" / "data"', 'ROOT / "src" / "new" / "data"'),
        ("see src/pkg/run.py", "see src/new/run.py"),
        ('name = "pkg"', 'name = "new"'),
        ('getLogger("pkg")', 'getLogger("new")'),
        ('ArgumentParser(prog="pkg")', 'ArgumentParser(prog="new")'),
    ],
)
def test_a_reference_is_renamed(before, after):
    assert script.rename_in(before, script.references("pkg", ["data", "run"]), "new") == after


@pytest.mark.parametrize(
    "text",
    [
        'KEY = "pkg"',
        'checkpoint["pkg"]["position"]',
        'checkpoint.get("pkg")',
        "Pkg is a pile of stones, and a pkg too",
        "PKG_SAVE_INTERVAL",
        "from pkg_tools import x",
        "from pkgs import x",
        "my.pkg.data",
        "/tmp/pkg.data",
        "pkg.json",
        "pkg.database",
        "src/pkg-old",
        '{"pkg": state}',
    ],
)
def test_what_is_not_a_reference_stays(text):
    assert script.rename_in(text, script.references("pkg", ["data", "run"]), "new") == text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my-project", "letters"),
        ("1st", "letters"),
        ("", "letters"),
        ("../out", "letters"),
        ("café", "letters"),
        ("class", "keyword"),
        ("match", "keyword"),
        ("json", "standard library"),
        ("torch", "installed"),
        ("tests", "already"),
        ("train", "already"),
        (OLD, "already"),
    ],
)
def test_a_bad_name_is_refused(name, why):
    with pytest.raises(script.RenameError, match=why):
        script.check_name(name, ROOT)


def test_uncommitted_changes_are_refused_unless_forced(clone):
    (clone / "note.txt").write_text("mine")
    refused = _rename(clone, NEW)
    assert refused.returncode == 2
    assert "uncommitted" in refused.stderr
    assert (clone / "src" / OLD).is_dir()
    assert _rename(clone, NEW, "--force").returncode == 0


def test_no_reference_is_left_and_the_key_stays(clone):
    key = re.search(r'^KEY\b.*= "\w+"', (clone / f"src/{OLD}/checkpoint/state.py").read_text(), re.MULTILINE)
    result = _rename(clone, NEW)
    assert result.returncode == 0, result.stderr
    assert not (clone / "src" / OLD).exists()
    assert key, "checkpoint/state.py should define KEY"
    assert key[0] in (clone / f"src/{NEW}/checkpoint/state.py").read_text()
    read = {path: script.read_text(path) for path in script.source_files(clone)}
    files = {path: text for path, text in read.items() if text is not None}  # a picture has no references
    modules = "|".join(path.stem for path in (clone / "src" / NEW).iterdir())
    path_of_a_module = re.compile(rf"(?<![\w./-]){OLD}\.({modules})\b|\bsrc/{OLD}\b|-m {OLD}\b")
    left = {str(p.relative_to(clone)): m[0] for p, text in files.items() if (m := path_of_a_module.search(text))}
    assert left == {}
    imports = [(p, name) for p, text in files.items() if p.suffix == ".py" for name in _imported(text)]
    assert [(p, name) for p, name in imports if name.split(".")[0] == OLD] == []


def _imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


# They are imported, and what they do beside that, others do as well: they take most of the time.
HEAVY = (
    *("archive", "auto", "callback", "crash", "disk", "encoding", "exact", "loop", "meter", "pace", "retention"),
    *("saving", "stage", "sums", "sweep_plots", "tracking", "wandb_server", "writer"),
)
LIGHT = f"not ({' or '.join(f'test_{name}.py' for name in HEAVY)})"


@pytest.mark.slow
def test_the_renamed_project_composes_imports_and_passes_its_fast_tests(clone):
    assert _rename(clone, NEW).returncode == 0
    path = _import_path(clone)
    _run([sys.executable, "-c", f"import {NEW}"], clone, PYTHONPATH=path)
    assert NEW in _run([sys.executable, "train.py", "--cfg", "job"], clone, PYTHONPATH=path).stdout
    _run([sys.executable, "-m", "ruff", "format", "--quiet", "."], clone)
    _run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "not slow",
            "-k",
            LIGHT,
            "-p",
            "no:cacheprovider",
        ],
        clone,
        PYTHONPATH=path,
    )
